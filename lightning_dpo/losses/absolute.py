"""Losses on the reward of each answer by itself, and not only on the difference of the two.

Below, r̂ = β(log π − log π_ref). A difference does not determine whether both answers become more or less likely; these
losses do. None of them reads offsets, which are differences.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from lightning_dpo.losses.interface import ImplicitRewards
from lightning_dpo.losses.pairs import PairLogps


@dataclass(frozen=True)
class NCA(ImplicitRewards):
    """−log σ(r̂_w) − ½ log σ(−r̂_w) − ½ log σ(−r̂_l).

    NCA for two answers with a hard label, Table 1 of https://arxiv.org/abs/2402.05369. Chosen answers do not become
    less likely. TRL's `nca_pair` is the same.

    Args:
        beta: Strength of the KL constraint, per nat of log-ratio. Positive.
    """

    def losses(self, pairs: PairLogps) -> Tensor:
        chosen, rejected = self.pair_rewards(pairs)
        return -F.logsigmoid(chosen) - 0.5 * F.logsigmoid(-chosen) - 0.5 * F.logsigmoid(-rejected)


@dataclass(frozen=True)
class BCO(ImplicitRewards):
    """−log σ(r̂_w) − log σ(−r̂_l): binary classification of chosen and rejected answers.

    https://arxiv.org/abs/2404.04656 without the reward shift δ, a running mean of rewards over earlier steps: losses
    have no state here, so that a step does not depend on accumulation, devices or resumes. TRL's `bco_pair` is the
    same; LLaMA-Factory, ms-swift and TRL up to 0.28 subtract δ.

    Args:
        beta: Strength of the KL constraint, per nat of log-ratio. Positive.
    """

    def losses(self, pairs: PairLogps) -> Tensor:
        chosen, rejected = self.pair_rewards(pairs)
        return -F.logsigmoid(chosen) - F.logsigmoid(-rejected)


@dataclass(frozen=True)
class SPPO(ImplicitRewards):
    """(w − 1/(2β))² + (l + 1/(2β))², where w and l are the log-ratios of the two answers.

    Eq. 4.7 of https://arxiv.org/abs/2405.00675 with the probability of winning set to 1 and 0, and η = 1/β. TRL's
    `sppo_hard` is the same. The paper samples new answers in each iteration; this is one iteration.

    Args:
        beta: Strength of the KL constraint, per nat of log-ratio. Positive.
    """

    def losses(self, pairs: PairLogps) -> Tensor:
        target = 0.5 / self.beta
        return (pairs.chosen_logratio - target).square() + (pairs.rejected_logratio + target).square()


@dataclass(frozen=True)
class APOZero(ImplicitRewards):
    """σ(−r̂_w) + σ(r̂_l): chosen answers become more likely, and rejected ones less likely.

    Eq. 7 of https://arxiv.org/abs/2408.06266, for chosen answers that are better than those of the policy. TRL's
    `apo_zero` is the same.

    Args:
        beta: Strength of the KL constraint, per nat of log-ratio. Positive.
    """

    def losses(self, pairs: PairLogps) -> Tensor:
        chosen, rejected = self.pair_rewards(pairs)
        return (-chosen).sigmoid() + rejected.sigmoid()


@dataclass(frozen=True)
class APODown(ImplicitRewards):
    """σ(r̂_w) + σ(r̂_l − r̂_w): both answers become less likely, the rejected one more so.

    Eq. 8 of https://arxiv.org/abs/2408.06266, for chosen answers that are worse than those of the policy. TRL's
    `apo_down` is the same.

    Args:
        beta: Strength of the KL constraint, per nat of log-ratio. Positive.
    """

    def losses(self, pairs: PairLogps) -> Tensor:
        chosen, rejected = self.pair_rewards(pairs)
        return chosen.sigmoid() + (rejected - chosen).sigmoid()
