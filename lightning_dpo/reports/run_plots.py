"""Plots of a run's curves and of the lengths of its data."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lightning_dpo.labels import LABELS, panels
from lightning_dpo.reports.intervals import Z
from lightning_dpo.reports.plots import curve, grid, plotted, save_figure, style
from lightning_dpo.runs.history import read_history

_ERRORS = {"val/kl": "val/kl_stderr"}


def draw_curves(metrics: Path, picture: Path) -> None:
    """Draw the curves of `metrics.csv` by optimizer step in the panels of `labels.py`, except those with single points.

    Without curves, draw nothing.
    """
    rows = read_history(metrics)
    curves = {name: curve(rows, name) for names in panels().values() for name in names}
    shown = {title: names for title, names in panels().items() if any(len(curves[name]) > 1 for name in names)}
    if not shown:
        return
    figure, axes_of_panels = grid(len(shown), 3 if len(shown) > 4 else 4, (5, 4.4))
    for axes, (title, names) in zip(axes_of_panels, shown.items(), strict=True):
        for number, name in enumerate(names):
            if curves[name]:
                steps, values = zip(*curves[name], strict=True)
                errors = [Z * error for _, error in curve(rows, _ERRORS[name])] if name in _ERRORS else None
                of_validation = name.startswith("val/")
                # Training steps are noisy, so validation is drawn in front of them.
                width, front = (1.5, 3) if of_validation else (0.6, 2)
                look = style(number) | ({} if of_validation else {"marker": ""})
                axes.errorbar(
                    steps, values, errors, label=plotted(LABELS[name].text), markersize=4, linewidth=width,
                    zorder=front, capsize=3, **look,
                )  # fmt: skip
        axes.set_title(plotted(title), fontsize="medium")
        axes.set_xlabel("optimizer step")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.16))
    save_figure(figure, picture, 150)


def draw_lengths(lengths: Mapping[str, Sequence[int]], limit: int, picture: Path) -> None:
    """Draw a histogram in tokens for each entry of `lengths`, with a common scale and a line at `limit`."""
    figure = Figure(figsize=(4 * len(lengths), 3.4), layout="constrained")
    longest = max(limit, *(max(values) for values in lengths.values()))
    for axes, (title, values) in zip(figure.subplots(1, len(lengths), squeeze=False)[0], lengths.items(), strict=True):
        axes.hist(values, bins=40, range=(0, longest), color="0.45")
        middle = sorted(values)[len(values) // 2]
        axes.axvline(middle, linestyle="--", color="black", label=f"median {middle}")
        if title.startswith("prompt and"):
            axes.axvline(limit, color="black", label=f"data.max_length {limit}")
        axes.set(title=title, xlabel="tokens", ylabel="pairs")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(fontsize="small")
    save_figure(figure, picture, 150)
