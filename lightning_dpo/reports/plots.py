"""Functions that plots of runs and of sweeps share."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_dpo.run_folder import atomic_write

LINES = ("-", "--", "-.", ":")
"""Line styles that can be distinguished in black and white."""


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
