"""DPO, and conservative DPO for noisy labels."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from lightning_dpo.losses.checks import check_label_smoothing
from lightning_dpo.losses.interface import ImplicitRewards
from lightning_dpo.losses.pairs import PairLogps


@dataclass(frozen=True)
class DPO(ImplicitRewards):
    """−(1−ε) log σ(m) − ε log σ(−m), where m is the reward margin minus the pair's offset.

    Eq. 7 of https://arxiv.org/abs/2305.18290; with ε > 0 Eq. 3 of https://ericmitchell.ai/cdpo.pdf; with an offset
    ODPO (https://arxiv.org/abs/2402.10571). TRL's `sigmoid` ignores its `label_smoothing`.

    Args:
        beta: Strength of the KL constraint, per nat of log-ratio. Positive.
        label_smoothing: ε, the probability that a label is wrong. In [0, 0.5).
    """

    columns = frozenset({"weight", "offset", "label_noise"})

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_label_smoothing(self.label_smoothing)

    @property
    def kl_beta(self) -> float | None:
        """β; None with label smoothing, and for subclasses, which have other margins."""
        return self.beta if type(self) is DPO and not self.label_smoothing else None

    def losses(self, pairs: PairLogps) -> Tensor:
        return smoothed(self.margins(pairs), self.label_smoothing)


def smoothed(margins: Tensor, label_smoothing: float) -> Tensor:
    """−(1−ε) log σ(m) − ε log σ(−m). Shape: (pairs,)."""
    losses = -F.logsigmoid(margins)
    if label_smoothing:
        losses = (1 - label_smoothing) * losses - label_smoothing * F.logsigmoid(-margins)
    return losses
