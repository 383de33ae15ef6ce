"""DPO with another margin: offsets from scores, lengths, and a penalty for less likely chosen answers."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_dpo.losses.checks import check_number
from lightning_dpo.losses.dpo import DPO
from lightning_dpo.losses.pairs import PairLogps


@dataclass(frozen=True)
class ODPO(DPO):
    """DPO that requires a reward margin of α times the pair's offset: m = β(w − l) − α o.

    ODPO, https://arxiv.org/abs/2402.10571. The offset is a column of the data, such as the difference of the scores of
    the two answers, or its logarithm as in the authors' code. With offsets g_w − g_l from a score g of each answer, the
    optimum is π_ref exp((r + α g)/β) / Z. Not in TRL.

    Args:
        beta: Strength of the KL constraint, per nat of log-ratio. Positive.
        label_smoothing: Probability that a label is wrong. In [0, 0.5).
        scale: α, reward per unit of the offset. Positive.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("scale", self.scale, "a positive number; without offsets, use loss=dpo", lambda scale: scale > 0)

    def margins(self, pairs: PairLogps) -> Tensor:
        """Reward margin minus the scaled offset. Shape: (pairs,)."""
        return super().margins(pairs) + (1 - self.scale) * pairs.offset


@dataclass(frozen=True)
class RDPO(DPO):
    """DPO with a penalty of α per token in the objective: m = β(w − l) + α(n_w − n_l) − o.

    R-DPO, https://arxiv.org/abs/2403.19159. The objective is E[r − α n] − β KL(π‖π_ref), so the optimum is
    π_ref exp((r − α n)/β) / Z: of a pair with a longer chosen answer, the length explains a part of the label, and less
    is left for the policy. A sign of −α, which some implementations have, rewards length. Not in TRL.

    Args:
        beta: Strength of the KL constraint, per nat of log-ratio. Positive.
        label_smoothing: Probability that a label is wrong. In [0, 0.5).
        alpha: α, penalty per token, in units of the reward. Positive.
    """

    reads_lengths = True

    alpha: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("alpha", self.alpha, "a positive number; without a penalty, use loss=dpo", lambda alpha: alpha > 0)

    def margins(self, pairs: PairLogps) -> Tensor:
        """Reward margin plus the penalty's difference, minus the offset. Shape: (pairs,)."""
        return super().margins(pairs) + self.alpha * (pairs.chosen_length - pairs.rejected_length)


@dataclass(frozen=True)
class DPOP(DPO):
    """DPO with a penalty for chosen answers that become less likely: m = β(w − l − λ max(0, −w)) − o.

    Eq. 3 of https://arxiv.org/abs/2402.13228 (Smaug). DPO can lower the probability of both answers, which this
    prevents: with −w > 0, more probability of y_w increases the margin 1 + λ times as much. Not in TRL.

    Args:
        beta: Strength of the KL constraint, per nat of log-ratio. Positive.
        label_smoothing: Probability that a label is wrong. In [0, 0.5).
        penalty: λ. Positive; the paper uses 5 to 500.
    """

    penalty: float = 50.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("penalty", self.penalty, "a positive number; without it, use loss=dpo", lambda value: value > 0)

    def margins(self, pairs: PairLogps) -> Tensor:
        """Reward margin minus the penalty and the offset. Shape: (pairs,)."""
        return super().margins(pairs) - self.beta * self.penalty * torch.relu(-pairs.chosen_logratio)
