"""The plots of a sweep: reward or accuracy against KL, and the curves of its runs. Readable in grayscale."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lightning_dpo.labels import LABELS
from lightning_dpo.reports.intervals import interval
from lightning_dpo.reports.plots import LINES, curve, grid, save_figure
from lightning_dpo.reports.runs import SEED, Run, by_all_but_the_seed, differing, label
from lightning_dpo.run_folder import RunFolder

_ACCURACY = "val/rewards/accuracies"
_EXACT = ("closed_form/kl_reference", "closed_form/reward")
_CURVES = (
    _ACCURACY,
    "val/rewards/margins",
    "val/kl",
    "val/samples/length",
    "closed_form/reward",
    "closed_form/kl_optimum",
)
_MARKERS = "osD^vP*X<>"


@dataclass(frozen=True)
class Point:
    """A run, or the mean of runs that differ only in their seed.

    Attributes:
        x: One metric.
        y: Another metric.
        x_error: Half the width of its 95 % interval; NaN if unknown.
        y_error: The same for `y`.
        label: Name of the run.
        number: Index of the run, which selects its marker in all plots.
        seeds: `x` and `y` of each of several seeds.
    """

    x: float
    y: float
    x_error: float
    y_error: float
    label: str
    number: int
    seeds: Sequence[tuple[float, float]] = ()


def draw_frontier(runs: Sequence[Run], picture: Path) -> bool:
    """Draw reward against KL if the optimum is known; otherwise accuracy and length against KL.

    Args:
        runs: The runs.
        picture: Path of the plot.

    Returns:
        Whether there was anything to draw.
    """
    panels = [_EXACT] if any(_EXACT[1] in run.metrics for run in runs) else [
        ("val/kl", name) for name in (_ACCURACY, "val/samples/length")
    ]  # fmt: skip
    drawn = [(names, points(runs, *names)) for names in panels]
    drawn = [(names, found) for names, found in drawn if found]
    if not drawn:
        return False
    figure = Figure(figsize=(6.2 * len(drawn), 4.6), layout="constrained")
    for axes, ((x, y), found) in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn, strict=True):
        if (x, y) == _EXACT:
            _draw_limits(axes, runs, max(point.x for point in found))
        _draw_points(axes, found)
        axes.set(xlabel=LABELS[x].text, ylabel=LABELS[y].text)
        axes.set_xlim(
            left=max(axes.get_xlim()[0], -0.05 * axes.get_xlim()[1])
        )  # an error bar may be negative, a KL not
        if y == _ACCURACY:
            axes.set_ylim(max(axes.get_ylim()[0], 0), min(axes.get_ylim()[1], 1))
        axes.grid(alpha=0.3)
    _draw_legend(figure)
    save_figure(figure, picture, 200)
    return True


def points(runs: Sequence[Run], x: str, y: str) -> list[Point]:
    """The runs as points of two metrics. Runs that differ only in their seed become their mean and its interval."""
    names, found = differing(runs), []
    for number, group in enumerate(by_all_but_the_seed(runs)):
        both = [run for run in group if x in run.metrics and y in run.metrics]
        if len(both) == 1:
            (run,) = both
            values = (run.metrics[x], run.metrics[y], run.error_of(x), run.error_of(y))
            found.append(Point(*values, label(run, names), number))
        elif both:
            (x_mean, x_error), (y_mean, y_error) = (interval([run.metrics[name] for run in both]) for name in (x, y))
            text = label(both[0], [name for name in names if name != SEED]) if len(names) > 1 else "mean"
            seeds = [(run.metrics[x], run.metrics[y]) for run in both]
            found.append(Point(x_mean, y_mean, x_error, y_error, f"{text} ({len(both)} seeds)", number, seeds))
    return sorted(found, key=lambda point: point.x)


def _draw_points(axes: Axes, found: Sequence[Point]) -> None:
    for point in found:
        marker = _MARKERS[point.number % len(_MARKERS)]
        face = "black" if point.number // len(_MARKERS) % 2 == 0 else "white"
        x_error, y_error = (None if math.isnan(error) else error for error in (point.x_error, point.y_error))
        axes.errorbar(
            point.x, point.y, xerr=x_error, yerr=y_error, fmt=marker,
            color="black", markerfacecolor=face, markersize=6, capsize=3, linewidth=1, zorder=3, label=point.label,
        )  # fmt: skip
        if point.seeds:
            axes.plot(*zip(*point.seeds, strict=True), marker, color="0.55", markersize=3, zorder=2)
    axes.margins(x=0.08, y=0.1)


def _draw_legend(figure: Figure) -> None:
    """Draw one legend for all panels, below them."""
    found = [axes.get_legend_handles_labels() for axes in figure.axes]
    handles = {text: handle for some in found for handle, text in zip(*some, strict=True)}
    # About 100 small characters fit below a panel; a marker and the space around it take 8.
    fitting = max(1, 100 * len(figure.axes) // (max(map(len, handles)) + 8))
    columns = min(4, len(handles), fitting)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, fontsize="small")


def _draw_limits(axes: Axes, runs: Sequence[Run], furthest: float) -> None:
    """Draw the largest possible reward at each KL: one line per reference, which depends on the seed."""
    limits = {path.read_text(): path for run in runs if (path := RunFolder(run.folder).frontier).exists()}
    for number, path in enumerate(limits.values()):
        rows = [(float(row["kl"]), float(row["reward"])) for row in csv.DictReader(path.open(newline=""))]
        # Only slightly beyond the points.
        near = [row for row in rows if row[0] <= 1.15 * furthest] or rows
        names = (None, None) if number else ("best possible at this KL", "reference")
        axes.plot(*zip(*near, strict=True), label=names[0], color="0.5", linewidth=1.5, zorder=1)
        axes.plot(
            0, rows[0][1], label=names[1], marker="o", markerfacecolor="white", color="0.5", linestyle="none", zorder=2
        )


def draw_run_curves(runs: Sequence[Run], picture: Path) -> bool:
    """Draw the validation metrics of all runs by optimizer step, one panel per metric.

    Returns:
        Whether there was anything to draw.
    """
    names = differing(runs)
    measured = {name: [(run, curve(run.history, name)) for run in runs] for name in _CURVES}
    curves = {name: [one for one in of_runs if one[1]] for name, of_runs in measured.items()}
    curves = {name: of_runs for name, of_runs in curves.items() if of_runs}
    if not curves:
        return False
    figure, axes_of_panels = grid(len(curves), 3, (4.6, 3.6))
    styles = {run.folder: number for number, run in enumerate(runs)}
    for axes, (name, of_runs) in zip(axes_of_panels, curves.items(), strict=True):
        for run, points_of_run in of_runs:
            number = styles[run.folder]
            axes.plot(
                *zip(*points_of_run, strict=True), linestyle=LINES[number % len(LINES)], linewidth=1, markersize=4,
                marker=_MARKERS[number % len(_MARKERS)], color=str(0.6 * number / max(len(runs) - 1, 1)),
                label=label(run, names),
            )  # fmt: skip
        axes.set(xlabel="optimizer step", ylabel=LABELS[name].text)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    _draw_legend(figure)
    save_figure(figure, picture, 150)
    return True
