"""The pictures that commands leave: curves of a run, lengths of data, calibration of rewards."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_PANELS = {
    "loss": ("train/loss", "val/loss"),
    "accuracy (a tie counts ½)": ("train/rewards/accuracies", "val/rewards/accuracies"),
    "validation rewards": ("val/rewards/chosen", "val/rewards/rejected", "val/rewards/margins"),
    "log π − log π_ref on training pairs, nats": ("train/logratios/chosen", "train/logratios/rejected"),
}
_LINES = ("-", "--", ":")


def draw_curves(metrics: Path, picture: Path) -> None:
    """Draw the curves of `metrics.csv`: loss, accuracy, rewards and log-ratios by optimizer step."""
    with metrics.open(newline="") as file:
        rows = list(csv.DictReader(file))
    curves = {
        name: [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
        for names in _PANELS.values()
        for name in names
    }
    panels = {title: names for title, names in _PANELS.items() if any(curves[name] for name in names)}
    figure = Figure(figsize=(4.5 * len(panels), 4.2), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for name, line in zip(names, _LINES, strict=False):
            if curves[name]:
                marker = "o" if name.startswith("val/") else None
                # Single steps are noisy; what was validated stands in front of them.
                width, front = (1.5, 3) if marker else (0.6, 2)
                points = zip(*curves[name], strict=True)
                axes.plot(*points, line, label=name, marker=marker, markersize=4, linewidth=width, zorder=front)
        axes.set(title=title, xlabel="optimizer step")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.16))
    figure.savefig(picture, dpi=150)


def draw_lengths(lengths: Mapping[str, Sequence[int]], limit: int, picture: Path) -> None:
    """Draw one histogram for each entry of `lengths`, in tokens, on one scale; a line says what `limit` is."""
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
    figure.savefig(picture, dpi=150)


def draw_calibration(rows: Sequence[tuple[float, float, int]], subtitle: str, picture: Path) -> None:
    """Draw how often the preferred answer of a reward margin is the chosen one, beside how often it should be.

    Args:
        rows: Mean confidence, accuracy and number of pairs of every bin.
        subtitle: What of it in numbers.
        picture: Where.
    """
    figure = Figure(figsize=(4.8, 5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    confidence, accuracy, count = zip(*rows, strict=True) if rows else ((), (), ())
    above.plot([0.5, 1], [0.5, 1], ":", color="black", label="calibrated")
    error = [1.96 * (max(p * (1 - p), 1e-9) / n) ** 0.5 for p, n in zip(accuracy, count, strict=True)]
    above.errorbar(confidence, accuracy, error, fmt="o-", color="0.3", markersize=4, capsize=2, label="measured, 95 %")
    above.set(ylabel="share of pairs labelled like that", ylim=(0, 1.02), title=f"σ(reward margin)\n{subtitle}")
    above.title.set_fontsize("medium")
    above.legend(fontsize="small", loc="lower right")
    below.bar(confidence, count, width=0.02, color="0.45")
    below.set(xlabel="σ(|margin|): confidence in the preferred answer", ylabel="pairs", xlim=(0.49, 1.01))
    for axes in (above, below):
        axes.grid(alpha=0.3)
    figure.savefig(picture, dpi=150)
