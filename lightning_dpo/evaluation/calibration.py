"""How far σ(reward margin) is the probability that an answer is the preferred one, in numbers and as a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from lightning_dpo.evaluation.accuracy import ScoredPair
from lightning_dpo.reports.intervals import wilson

_BINS = 10


@dataclass(frozen=True)
class Calibration:
    """How far σ(margin) is the probability that an answer is the chosen one, as Bradley and Terry's model has it.

    Attributes:
        bins: Mean confidence, accuracy and number of pairs, by confidence in [½, 1].
        expected_error: Mean distance of confidence and accuracy over the bins, weighed by their pairs (ECE).
        brier: Mean of (1 − σ(margin))².
        log_loss: Mean of −log σ(margin), nats; ln 2 for a model that knows nothing.
    """

    bins: list[tuple[float, float, int]]
    expected_error: float
    brier: float
    log_loss: float


def calibration(pairs: Sequence[ScoredPair]) -> Calibration:
    """Compare confidence and accuracy."""
    margins = np.array([pair.margin for pair in pairs])
    right = np.array([pair.right for pair in pairs])
    confidence = _sigmoid(np.abs(margins))
    places = np.minimum((confidence - 0.5) * 2 * _BINS, _BINS - 1).astype(int)
    bins = [
        (float(confidence[here].mean()), float(right[here].mean()), int(here.sum()))
        for here in (places == place for place in range(_BINS))
        if here.any()
    ]
    error = sum(abs(sure - share) * count for sure, share, count in bins) / len(pairs)
    probability = _sigmoid(margins)
    return Calibration(bins, error, float(((1 - probability) ** 2).mean()), float(np.logaddexp(0, -margins).mean()))


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -values))


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
