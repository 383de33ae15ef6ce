"""Calibration of σ(reward margin) as the probability that an answer is the preferred one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from lightning_dpo.evaluation.accuracy import ScoredPair
from lightning_dpo.reports.intervals import wilson
from lightning_dpo.reports.plots import save_figure

_BINS = 10


@dataclass(frozen=True)
class Calibration:
    """Calibration of σ(margin) as the probability that an answer is the chosen one, as in the Bradley-Terry model.

    Attributes:
        bins: Mean confidence, accuracy and number of pairs, by confidence in [½, 1].
        expected_error: Mean difference of confidence and accuracy over the bins, weighted by their pairs (ECE).
        brier: Mean of (1 − σ(margin))².
        log_loss: Mean of −log σ(margin), in nats; ln 2 if all margins are 0.
    """

    bins: list[tuple[float, float, int]]
    expected_error: float
    brier: float
    log_loss: float


def calibration(pairs: Sequence[ScoredPair]) -> Calibration:
    """Compute the calibration of pairs."""
    margins = np.array([pair.margin for pair in pairs])
    right = np.array([pair.right for pair in pairs])
    confidence = _sigmoid(np.abs(margins))
    indices = np.minimum((confidence - 0.5) * 2 * _BINS, _BINS - 1).astype(int)
    bins = [
        (float(confidence[here].mean()), float(right[here].mean()), int(here.sum()))
        for here in (indices == index for index in range(_BINS))
        if here.any()
    ]
    error = sum(abs(sure - share) * count for sure, share, count in bins) / len(pairs)
    probability = _sigmoid(margins)
    return Calibration(bins, error, float(((1 - probability) ** 2).mean()), float(np.logaddexp(0, -margins).mean()))


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -values))


def draw_calibration(rows: Sequence[tuple[float, float, int]], subtitle: str, picture: Path) -> None:
    """Draw accuracy by confidence, and the number of pairs by confidence.

    Args:
        rows: Mean confidence, accuracy and number of pairs of each bin.
        subtitle: Second line of the title.
        picture: Path of the plot.
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
        label="measured, 95 % interval",
    )
    above.set(ylabel="accuracy", ylim=(0, 1.02), title=f"σ(reward margin)\n{subtitle}")
    above.title.set_fontsize("medium")
    above.legend(fontsize="small", loc="lower right")
    below.bar(confidence, count, width=0.02, color="0.45")
    below.set(xlabel="confidence σ(|margin|)", ylabel="pairs", xlim=(0.49, 1.01))
    for axes in (above, below):
        axes.grid(alpha=0.3)
    save_figure(figure, picture, 150)
