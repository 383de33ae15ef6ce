"""IPO: regression of the log-ratio difference to a target, so that it does not grow without bound."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from lightning_dpo.losses.interface import ImplicitRewards
from lightning_dpo.losses.pairs import PairLogps


@dataclass(frozen=True)
class IPO(ImplicitRewards):
    """(h − 1/(2β))², where h is the difference of the two log-ratios after the offset.

    Eq. 17 of https://arxiv.org/abs/2310.12036, whose τ is β here. Two forms are in use, and they need different β.
    `sum` takes log-ratios as in the paper: h = w − l − offset/β. `mean` divides each by the length of its completion:
    h = w/n_w − l/n_l − offset/(β n̄), with n̄ the mean of n_w and n_l; the paper's authors confirmed to the authors of
    TRL that they ran this form.

    The offset is a reward margin per answer in both forms. `mean` compares log-ratios per token, so it divides the
    offset by the mean length of the two answers.

    Args:
        beta: Strength of the KL constraint. Positive.
        normalize: `mean` over a completion's tokens (TRL), or `sum` (the paper's formula, OpenRLHF).
    """

    columns = frozenset({"weight", "offset", "label_noise"})

    normalize: Literal["mean", "sum"] = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.normalize not in ("mean", "sum"):
            raise ValueError(f"normalize must be mean or sum, got {self.normalize!r}")
        object.__setattr__(self, "reads_lengths", self.normalize == "mean")  # the dataclass is frozen

    def losses(self, pairs: PairLogps) -> Tensor:
        """The squared distance of each log-ratio difference from its target. Shape: (pairs,)."""
        chosen, rejected, offset = pairs.chosen_logratio, pairs.rejected_logratio, pairs.offset
        if self.normalize == "mean":
            chosen, rejected = chosen / pairs.chosen_length, rejected / pairs.rejected_length
            offset = offset / ((pairs.chosen_length + pairs.rejected_length) / 2)
        return (chosen - rejected - (0.5 + offset) / self.beta).square()
