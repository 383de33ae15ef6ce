"""DPO, and conservative DPO for labels that may be wrong."""

from dataclasses import dataclass

import torch.nn.functional as F

from lightning_dpo.losses.interface import (
    PairLogps,
    PreferenceLoss,
    PreferenceLossFunction,
    check_beta,
    implicit_rewards,
)


@dataclass(frozen=True)
class DPO(PreferenceLossFunction):
    """−(1−ε) log σ(m) − ε log σ(−m), m the reward margin less the pair's offset.

    Eq. 7 of https://arxiv.org/abs/2305.18290; with ε > 0 Eq. 3 of https://ericmitchell.ai/cdpo.pdf; with an offset
    Eq. 3 of https://arxiv.org/abs/2402.10571.

    Args:
        beta: Strength of the pull to the reference, per nat of log-ratio. Positive.
        label_smoothing: ε, the probability that a label is wrong. In [0, 0.5).
    """

    beta: float = 0.1
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_beta(self.beta)
        if not isinstance(self.label_smoothing, int | float) or not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must be in [0, 0.5), got {self.label_smoothing!r}")

    def __call__(self, logps: PairLogps) -> PreferenceLoss:
        chosen_rewards, rejected_rewards = implicit_rewards(self.beta, logps)
        margins = chosen_rewards - rejected_rewards - logps.offset
        losses = -F.logsigmoid(margins)
        if self.label_smoothing:
            losses = (1 - self.label_smoothing) * losses - self.label_smoothing * F.logsigmoid(-margins)
        return PreferenceLoss(losses, chosen_rewards.detach(), rejected_rewards.detach())
