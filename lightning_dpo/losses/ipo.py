"""IPO: regress the margin to a target instead of pushing it without end."""

from dataclasses import dataclass
from typing import Literal

from lightning_dpo.losses.interface import (
    PairLogps,
    PreferenceLoss,
    PreferenceLossFunction,
    check_beta,
    implicit_rewards,
    needed,
)


@dataclass(frozen=True)
class IPO(PreferenceLossFunction):
    """(h − 1/(2β) − offset/β)², h the difference of the two log-ratios.

    Eq. 17 of https://arxiv.org/abs/2310.12036, whose τ is β here. Two forms are in use and need different β: `sum`
    takes log-ratios as in the paper, `mean` divides each by its completion's tokens, which the paper's authors
    confirmed to the authors of TRL as what they ran.

    Args:
        beta: Strength of the pull to the reference. Positive.
        normalize: `mean` over a completion's tokens (TRL), or `sum` (the paper's formula, OpenRLHF).
    """

    beta: float = 0.1
    normalize: Literal["mean", "sum"] = "mean"

    def __post_init__(self) -> None:
        check_beta(self.beta)
        if self.normalize not in ("mean", "sum"):
            raise ValueError(f"normalize must be mean or sum, got {self.normalize!r}")

    def __call__(self, logps: PairLogps) -> PreferenceLoss:
        chosen, rejected = logps.chosen_logratio, logps.rejected_logratio
        if self.normalize == "mean":
            lengths = needed(logps.rejected_length, "rejected completions")
            chosen, rejected = chosen / logps.chosen_length, rejected / lengths
        losses = (chosen - rejected - (0.5 + logps.offset) / self.beta).square()
        chosen_rewards, rejected_rewards = implicit_rewards(self.beta, logps)
        return PreferenceLoss(losses, chosen_rewards.detach(), rejected_rewards.detach())
