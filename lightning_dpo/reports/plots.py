"""Functions that plots of runs and of sweeps share."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_dpo.run_folder import atomic_write

# The palette of Okabe and Ito, which colour-blind people can distinguish, without its yellow.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
# Print and grayscale keep these.
_LINES, _MARKERS = ("-", "--", "-.", ":"), "osD^vP*X<>"


def style(number: int) -> dict[str, Any]:
    """Color, line style and marker of the series with this index, for `Axes.plot`."""
    return {
        "color": _COLORS[number % len(_COLORS)],
        "linestyle": _LINES[number % len(_LINES)],
        "marker": _MARKERS[number % len(_MARKERS)],
    }


def plotted(text: str) -> str:
    """A label with its subscripts as math."""
    return text.replace("π_ref", r"$\pi_\mathrm{ref}$")


def limits(values: Sequence[float], errors: Sequence[float]) -> tuple[float, float]:
    """Limits of an axis that contain all values, and their errors unless these are much larger than the range.

    >>> limits([1.0, 2.0], [50.0, 60.0])
    (0.4, 2.6)

    Args:
        values: The values.
        errors: Half the widths of their intervals; NaN where unknown.
    """
    low, high = min(values), max(values)
    known = [error for error in errors if math.isfinite(error)]
    room = median(known) if known else 0.0
    if span := high - low:
        room = min(room, span / 2) + span / 10
    return low - room, high + room


def grid(count: int, across: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels of `size` inches in rows of at most `across`, and the panels."""
    across = min(across, count)
    down = -(-count // across)
    figure = Figure(figsize=(size[0] * across, size[1] * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).flatten()
    for unused in axes[count:]:
        unused.remove()
    return figure, list(axes[:count])


def curve(rows: Sequence[Mapping[str, str]], name: str) -> list[tuple[int, float]]:
    """Step and value of a metric in the rows of `metrics.csv` that have one.

    The last row of a running process may be incomplete, and is skipped.
    """
    return [(int(row["step"]), float(row[name])) for row in rows if row.get(name) and None not in row.values()]


def save_figure(figure: Figure, picture: Path, dpi: int) -> None:
    """Write a figure as PNG, atomically."""
    with atomic_write(picture) as file:
        figure.savefig(file, format="png", dpi=dpi)
