"""The pictures that commands leave: curves of a run, lengths of data, calibration of rewards."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lightning_dpo.evaluation import wilson

_PANELS = {
    "loss": ("train/loss", "val/loss"),
    "accuracy (a tie counts ½)": ("train/rewards/accuracies", "val/rewards/accuracies"),
    "validation rewards": ("val/rewards/chosen", "val/rewards/rejected", "val/rewards/margins"),
    "log π − log π_ref on training pairs, nats": ("train/logratios/chosen", "train/logratios/rejected"),
    "KL(π‖π_ref) on sampled answers, nats, ± 1.96 standard errors": ("val/kl",),
    "tokens of sampled answers": ("val/samples/length", "val/samples/reference/length"),
}
_ERRORS = {"val/kl": "val/kl_stderr"}
_LINES = ("-", "--", ":")


def draw_curves(metrics: Path, picture: Path) -> None:
    """Draw the curves of `metrics.csv` by optimizer step: loss, accuracy, rewards, log-ratios, and what samples say."""
    with metrics.open(newline="") as file:
        rows = list(csv.DictReader(file))
    curves = {name: _curve(rows, name) for names in _PANELS.values() for name in names}
    panels = {title: names for title, names in _PANELS.items() if any(curves[name] for name in names)}
    across = min(3, len(panels)) if len(panels) > 4 else len(panels)
    down = -(-len(panels) // across)
    figure = Figure(figsize=(5 * across, 4.4 * down), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False).flatten()
    for axes, (title, names) in zip(grid, panels.items(), strict=False):
        for name, line in zip(names, _LINES, strict=False):
            if curves[name]:
                steps, values = zip(*curves[name], strict=True)
                errors = [1.96 * error for _, error in _curve(rows, _ERRORS[name])] if name in _ERRORS else None
                marker = "o" if name.startswith("val/") else None
                # Single steps are noisy; what was validated stands in front of them.
                width, front = (1.5, 3) if marker else (0.6, 2)
                style = {"marker": marker, "markersize": 4, "linewidth": width, "zorder": front, "capsize": 3}
                axes.errorbar(steps, values, errors, linestyle=line, label=name, **style)
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel("optimizer step")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.16))
    for axes in grid[len(panels) :]:
        axes.remove()
    figure.savefig(picture, dpi=150)


def _curve(rows: Sequence[Mapping[str, str]], name: str) -> list[tuple[int, float]]:
    """Step and value wherever there is one."""
    return [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]


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
    ends = [wilson(share, pairs) for share, pairs in zip(accuracy, count, strict=True)]
    below_it = [max(0.0, share - low) for share, (low, _) in zip(accuracy, ends, strict=True)]
    above_it = [max(0.0, high - share) for share, (_, high) in zip(accuracy, ends, strict=True)]
    above.errorbar(
        confidence,
        accuracy,
        [below_it, above_it],
        fmt="o-",
        color="0.3",
        markersize=4,
        capsize=2,
        label="measured, 95 %",
    )
    above.set(ylabel="share of pairs labelled like that", ylim=(0, 1.02), title=f"σ(reward margin)\n{subtitle}")
    above.title.set_fontsize("medium")
    above.legend(fontsize="small", loc="lower right")
    below.bar(confidence, count, width=0.02, color="0.45")
    below.set(xlabel="σ(|margin|): confidence in the preferred answer", ylabel="pairs", xlim=(0.49, 1.01))
    for axes in (above, below):
        axes.grid(alpha=0.3)
    figure.savefig(picture, dpi=150)
