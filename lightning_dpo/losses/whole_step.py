"""Losses that compare the pairs of an optimizer step with each other.

They are computed once per optimizer step over the pairs of all devices, so each device must process its pairs in one
forward pass. Parts of a step would give another loss: TRL computes AOT per micro-batch, and its value depends on the
accumulation.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_dpo.losses.checks import check_label_smoothing, check_number
from lightning_dpo.losses.dpo import smoothed
from lightning_dpo.losses.interface import ImplicitRewards
from lightning_dpo.losses.pairs import PairLogps


@dataclass(frozen=True)
class AOT(ImplicitRewards):
    """DPO on sorted margins: the sorted log π(y_w)/π(y_l) of a step minus the sorted log π_ref(y_w)/π_ref(y_l).

    Paired AOT of https://arxiv.org/abs/2406.05882 with the logistic loss: the distribution of margins of the policy is
    moved above that of the reference, quantile by quantile. The i-th value is the loss of the i-th quantile, not of a
    pair, so weights of pairs are not read. TRL's `aot` is the same if a step is one micro-batch.

    Args:
        beta: Strength of the KL constraint, per nat of log-ratio. Positive.
        label_smoothing: Probability that a label is wrong. In [0, 0.5).
    """

    whole_step = True
    columns = frozenset[str]()

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_label_smoothing(self.label_smoothing)

    def losses(self, pairs: PairLogps) -> Tensor:
        """The loss of each quantile. Shape: (pairs,)."""
        return smoothed(self.beta * self.quantile_margins(pairs), self.label_smoothing)

    def quantile_margins(self, pairs: PairLogps) -> Tensor:
        """Differences of the sorted values, in nats. Shape: (pairs,)."""
        policy, reference = pairs.chosen - pairs.rejected, pairs.reference_chosen - pairs.reference_rejected
        return policy.sort().values - reference.sort().values


@dataclass(frozen=True)
class AOTUnpaired(AOT):
    """AOT between all chosen and all rejected answers: sorted log-ratios of the former against those of the latter.

    Unpaired AOT of https://arxiv.org/abs/2406.05882. Which answers form a pair has no influence. TRL's `aot_unpaired`
    is the same if a step is one micro-batch.

    Args:
        beta: Strength of the KL constraint, per nat of log-ratio. Positive.
        label_smoothing: Probability that a label is wrong. In [0, 0.5).
    """

    def quantile_margins(self, pairs: PairLogps) -> Tensor:
        """Differences of the sorted log-ratios, in nats. Shape: (pairs,)."""
        return pairs.chosen_logratio.sort().values - pairs.rejected_logratio.sort().values


@dataclass(frozen=True)
class BetaDPO(ImplicitRewards):
    """DPO with β adapted to the pairs of the step, without the pairs that are furthest from the mean.

    With the gaps g = w − l of a step, their mean M, and the fraction `keep` of the pairs with the smallest |g − M|:
    −log σ(β′ g) of the kept pairs, and β′ = β max(1 + α (mean of the kept g − M), 0.01), without gradient.

    After https://arxiv.org/abs/2407.08639, with three differences: M is the mean of this step, where the paper has a
    moving average over steps, because losses have no state; the paper samples the kept pairs with probabilities from a
    normal distribution around M; and the authors' code limits β′ to 0.001 from below. Not in TRL. A reward is β times
    the log-ratio, with the β of the setting.

    Args:
        beta: β of a step whose kept gaps have the mean of all. Positive.
        alpha: α, change of β per nat. Not negative; 0.6 in the authors' example.
        keep: Fraction of the pairs that are used. In (0, 1]; 0.8 in the authors' example.
    """

    whole_step = True
    columns = frozenset({"weight"})
    logged = ("beta",)

    alpha: float = 0.6
    keep: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("alpha", self.alpha, "a number that is not negative", lambda alpha: alpha >= 0)
        check_number("keep", self.keep, "in (0, 1]", lambda keep: 0 < keep <= 1)

    def losses(self, pairs: PairLogps) -> Tensor:
        """The loss of each pair; 0 for those that are not kept. Shape: (pairs,)."""
        gaps = pairs.chosen_logratio - pairs.rejected_logratio
        kept, beta = self._kept(gaps.detach())
        losses = -F.logsigmoid(beta * gaps)
        # The mean over the step is then the mean over the kept pairs.
        return torch.where(kept, losses, 0) * (len(gaps) / kept.sum())

    def logged_values(self, pairs: PairLogps) -> dict[str, Tensor]:
        """β′ of the step."""
        gaps = pairs.chosen_logratio - pairs.rejected_logratio
        return {"beta": self._kept(gaps)[1].expand(len(gaps))}

    def _kept(self, gaps: Tensor) -> tuple[Tensor, Tensor]:
        """Which pairs are kept, and β′. Shapes: (pairs,) and ()."""
        mean = gaps.mean()
        count = max(1, round(self.keep * len(gaps)))
        kept = torch.zeros_like(gaps, dtype=torch.bool).index_fill(
            0, (gaps - mean).abs().argsort(stable=True)[:count], True
        )
        change = 1 + self.alpha * (gaps[kept].mean() - mean)
        return kept, self.beta * change.clamp(min=0.01)
