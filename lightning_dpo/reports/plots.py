"""What the plots of a run and those of a sweep have in common."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

LINES = ("-", "--", "-.", ":")
"""Line styles, which differ in print as well."""


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
    """Step and value of a metric wherever `metrics.csv` has one.

    The last row of a run in progress may be half written; it is left out.
    """
    return [(int(row["step"]), float(row[name])) for row in rows if row.get(name) and None not in row.values()]
