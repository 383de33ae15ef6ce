"""Hinge: no more push once the margin reaches one."""

from dataclasses import dataclass

import torch

from lightning_dpo.losses.interface import (
    PairLogps,
    PreferenceLoss,
    PreferenceLossFunction,
    check_beta,
    implicit_rewards,
)


@dataclass(frozen=True)
class Hinge(PreferenceLossFunction):
    """max(0, 1 − m), m the reward margin less the pair's offset.

    The hinge-norm loss of RSO (https://arxiv.org/abs/2309.06657), after SLiC (https://arxiv.org/abs/2305.10425).

    Args:
        beta: Strength of the pull to the reference, per nat of log-ratio. Positive.
    """

    beta: float = 0.1

    def __post_init__(self) -> None:
        check_beta(self.beta)

    def __call__(self, logps: PairLogps) -> PreferenceLoss:
        chosen_rewards, rejected_rewards = implicit_rewards(self.beta, logps)
        losses = torch.relu(1 - (chosen_rewards - rejected_rewards - logps.offset))
        return PreferenceLoss(losses, chosen_rewards.detach(), rejected_rewards.detach())
