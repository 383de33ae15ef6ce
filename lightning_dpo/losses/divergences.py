"""DPO with another divergence from the reference than KL(π‖π_ref).

https://arxiv.org/abs/2309.16240: for the objective E[r] − β D_f(π‖π_ref), the reward is r̂ = β f′(π/π_ref) up to a
function of the prompt, and the loss is −log σ(r̂_w − r̂_l). For KL(π‖π_ref), f′ is the log-ratio, and the loss is DPO.
"""

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from lightning_dpo.batch import CompletionLogps
from lightning_dpo.losses.checks import check_number
from lightning_dpo.losses.dpo import DPO

_LARGEST = 80.0  # exp(88) is the largest in float32; TRL has the same limit for `alpha_divergence`


@dataclass(frozen=True)
class ForwardKL(DPO):
    """DPO for KL(π_ref‖π): r̂ = β (1 − π_ref/π). See the file for the source.

    π keeps the whole support of the reference. TRL's `f_divergence_type=forward_kl` is the same, except that it
    overflows for π_ref/π > e⁸⁸, where the gradient is 0 here.

    Args:
        beta: Weight of the divergence. Positive.
        label_smoothing: Probability that a label is wrong. In [0, 0.5).
    """

    def rewards(self, policy: CompletionLogps, reference: CompletionLogps | None) -> Tensor:
        """β (1 − π_ref/π) of each completion. Shape: (completions,)."""
        return self.beta * (1 - (-self.logratios(policy, reference)).clamp(max=_LARGEST).exp())


@dataclass(frozen=True)
class JensenShannon(DPO):
    """DPO for the Jensen-Shannon divergence: r̂ = β log(2π/(π + π_ref)). See the file for the source.

    The reward is at most β log 2, so a chosen answer stops gaining probability when it has several times that of the
    reference. TRL's `f_divergence_type=js_divergence` is the same.

    Args:
        beta: Weight of the divergence. Positive.
        label_smoothing: Probability that a label is wrong. In [0, 0.5).
    """

    def rewards(self, policy: CompletionLogps, reference: CompletionLogps | None) -> Tensor:
        """β log(2π/(π + π_ref)) of each completion. Shape: (completions,)."""
        return self.beta * (math.log(2) + F.logsigmoid(self.logratios(policy, reference)))


@dataclass(frozen=True)
class AlphaDivergence(DPO):
    """DPO for the α-divergence: r̂ = β (1 − (π/π_ref)^−α) / α. See the file for the source.

    α → 0 is KL(π‖π_ref), and α = 1 is KL(π_ref‖π). TRL's `f_alpha_divergence_coef` is 1 − α.

    Args:
        beta: Weight of the divergence. Positive.
        label_smoothing: Probability that a label is wrong. In [0, 0.5).
        alpha: α. In (0, 1).
    """

    alpha: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        what = "in (0, 1); the limits are loss=dpo and loss=forward_kl"
        check_number("alpha", self.alpha, what, lambda alpha: 0 < alpha < 1)

    def rewards(self, policy: CompletionLogps, reference: CompletionLogps | None) -> Tensor:
        """β (1 − (π/π_ref)^−α) / α of each completion. Shape: (completions,)."""
        exponents = (-self.alpha * self.logratios(policy, reference)).clamp(max=_LARGEST)
        return self.beta * -exponents.expm1() / self.alpha
