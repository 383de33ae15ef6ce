"""The plots of a sweep: reward or accuracy against KL, and the curves of its runs, averaged over seeds."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lightning_dpo.labels import LABELS
from lightning_dpo.reports.intervals import interval
from lightning_dpo.reports.plots import curve, grid, limits, plotted, save_figure, style
from lightning_dpo.reports.runs import SEED, Run, differing, label, seed_groups
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


@dataclass(frozen=True)
class Point:
    """A run, or the mean of runs that differ only in their seed.

    Attributes:
        x: One metric.
        y: Another metric.
        x_error: Half the width of its 95 % interval; NaN if unknown.
        y_error: The same for `y`.
        label: Name of the run.
        number: Index of the run, which selects its color and marker in all plots.
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
        frontier = _draw_frontier(axes, runs, max(point.x for point in found)) if (x, y) == _EXACT else []
        _draw_points(axes, found, frontier)
        axes.set(xlabel=plotted(LABELS[x].text), ylabel=plotted(LABELS[y].text))
        left, right = axes.get_xlim()
        axes.set_xlim(max(left, -0.05 * right), right)  # an error bar may be negative, a KL not
        if y == _ACCURACY:
            low, high = axes.get_ylim()
            axes.set_ylim(max(low, 0), min(high, 1))
        axes.grid(alpha=0.3)
    _draw_legend(figure)
    save_figure(figure, picture, 200)
    return True


def points(runs: Sequence[Run], x: str, y: str) -> list[Point]:
    """The runs as points of two metrics. Runs that differ only in their seed become their mean and its interval."""
    names, found = differing(runs), []
    for number, group in enumerate(seed_groups(runs)):
        both = [run for run in group if run.finished and x in run.metrics and y in run.metrics]
        if len(both) == 1:
            (run,) = both
            values = (run.metrics[x], run.metrics[y], run.error_of(x), run.error_of(y))
            found.append(Point(*values, label(run, names), number))
        elif both:
            (x_mean, x_error), (y_mean, y_error) = (interval([run.metrics[name] for run in both]) for name in (x, y))
            seeds = [(run.metrics[x], run.metrics[y]) for run in both]
            found.append(Point(x_mean, y_mean, x_error, y_error, _label_of(both, names), number, seeds))
    return sorted(found, key=lambda point: point.x)


def _draw_points(axes: Axes, found: Sequence[Point], others: Sequence[tuple[float, float]]) -> None:
    """Draw the points with those of their intervals that fit; the axes also contain `others`."""
    seeds = [seed for point in found for seed in point.seeds]
    x, y = zip(*[(point.x, point.y) for point in found], *seeds, *others, strict=True)
    x_limits = limits(x, [point.x_error for point in found])
    y_limits = limits(y, [point.y_error for point in found])
    for point in sorted(found, key=lambda point: point.number):
        look = style(point.number) | {"linestyle": "none"}
        x_error, y_error = _fitting(point.x, point.x_error, x_limits), _fitting(point.y, point.y_error, y_limits)
        axes.errorbar(point.x, point.y, xerr=x_error, yerr=y_error, capsize=3, elinewidth=1, zorder=3, **look)
        axes.plot(point.x, point.y, markersize=7, zorder=4, label=point.label, **look)
        if point.seeds:
            axes.plot(*zip(*point.seeds, strict=True), markersize=3, alpha=0.5, zorder=2, **look)
    axes.set(xlim=x_limits, ylim=y_limits)


def _fitting(value: float, error: float, within: tuple[float, float]) -> float | None:
    """The error if it is known, and if its interval is narrower than the axis."""
    return error if 2 * error < within[1] - within[0] else None


def _draw_legend(figure: Figure) -> None:
    """Draw one legend for all panels, below them."""
    found = [axes.get_legend_handles_labels() for axes in figure.axes]
    handles = {text: handle for some in found for handle, text in zip(*some, strict=True)}
    # About 100 small characters fit below a panel; a marker and the space around it take 8.
    fitting = max(1, 100 * len(figure.axes) // (max(map(len, handles)) + 8))
    columns = min(4, len(handles), fitting)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, fontsize="small")


def _draw_frontier(axes: Axes, runs: Sequence[Run], furthest: float) -> list[tuple[float, float]]:
    """Draw the largest possible reward at each KL: one line per reference, which depends on the seed.

    Returns:
        The points of the lines.
    """
    drawn: list[tuple[float, float]] = []
    limits = {path.read_text(): path for run in runs if (path := RunFolder(run.folder).frontier).exists()}
    for number, path in enumerate(limits.values()):
        rows = [(float(row["kl"]), float(row["reward"])) for row in csv.DictReader(path.open(newline=""))]
        # Only slightly beyond the points.
        near = [row for row in rows if row[0] <= 1.15 * furthest] or rows
        best = "best possible at this KL" + (", for each seed" if len(limits) > 1 else "")
        names = (None, None) if number else (best, "reference")
        axes.plot(*zip(*near, strict=True), label=names[0], color="0.5", linewidth=1.5, zorder=1)
        axes.plot(
            0, rows[0][1], label=names[1], marker="o", markerfacecolor="white", color="0.5", linestyle="none", zorder=2
        )
        drawn += [(0.0, rows[0][1]), *near]
    return drawn


def draw_run_curves(runs: Sequence[Run], picture: Path) -> bool:
    """Draw the validation metrics by optimizer step, one panel per metric with more than one step.

    Runs that differ only in their seed are one line, the mean at each step, in an area from the smallest to the largest
    value.

    Returns:
        Whether there was anything to draw.
    """
    names, groups = differing(runs), seed_groups(runs)
    curves = {name: [_over_seeds(group, name) for group in groups] for name in _CURVES}
    curves = {name: lines for name, lines in curves.items() if any(len(line) > 1 for line in lines)}
    if not curves:
        return False
    figure, axes_of_panels = grid(len(curves), 3, (4.6, 3.6))
    for axes, (name, lines) in zip(axes_of_panels, curves.items(), strict=True):
        for number, (group, line) in enumerate(zip(groups, lines, strict=True)):
            if not line:
                continue
            look, steps = style(number), list(line)
            text = _label_of(group, names)
            axes.plot(
                steps, [mean(values) for values in line.values()], linewidth=1.2, markersize=4, label=text, **look
            )
            if len(group) > 1:
                low, high = ([limit(values) for values in line.values()] for limit in (min, max))
                axes.fill_between(steps, low, high, color=look["color"], alpha=0.15, linewidth=0)
        axes.set(xlabel="optimizer step", ylabel=plotted(LABELS[name].text))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    _draw_legend(figure)
    save_figure(figure, picture, 150)
    return True


def _over_seeds(group: Sequence[Run], name: str) -> dict[int, list[float]]:
    """The values of a metric by step, at the steps that all runs of the group with this metric have."""
    curves = [found for run in group if (found := dict(curve(run.history, name)))]
    steps = sorted(set.intersection(*map(set, curves))) if curves else []
    return {step: [found[step] for found in curves] for step in steps}


def _label_of(group: Sequence[Run], names: Sequence[str]) -> str:
    if len(group) == 1:
        return label(group[0], names)
    text = label(group[0], [name for name in names if name != SEED]) if len(names) > 1 else "mean"
    return f"{text} ({len(group)} seeds)"
