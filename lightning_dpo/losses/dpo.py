"""DPO, and conservative DPO for noisy labels."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from lightning_dpo.losses.interface import ImplicitRewards, PairLogps


@dataclass(frozen=True)
class DPO(ImplicitRewards):
    """−(1−ε) log σ(m) − ε log σ(−m), where m is the reward margin minus the pair's offset.

    Eq. 7 of https://arxiv.org/abs/2305.18290; with ε > 0 Eq. 3 of https://ericmitchell.ai/cdpo.pdf; with an offset
    Eq. 3 of https://arxiv.org/abs/2402.10571.

    Args:
        beta: Strength of the KL constraint, per nat of log-ratio. Positive.
        label_smoothing: ε, the probability that a label is wrong. In [0, 0.5).
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.label_smoothing, int | float) or not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must be in [0, 0.5), got {self.label_smoothing!r}")

    def losses(self, pairs: PairLogps) -> Tensor:
        margins = self.margins(pairs)
        losses = -F.logsigmoid(margins)
        if self.label_smoothing:
            losses = (1 - self.label_smoothing) * losses - self.label_smoothing * F.logsigmoid(-margins)
        return losses
