"""Metrics of preference pairs: functions that give a value per pair, and torchmetrics that reduce the values exactly.

To add a metric, write a function and add a line to `METRICS`. It is then logged for training, for validation and for
every source. A label in `labels.py` adds it to `curves.png` and to tables.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypedDict

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from lightning_dpo.losses import PairLogps, PreferenceLoss, PreferenceLossFunction

# MPS (Apple's GPUs) does not support float64.
_SUM_DTYPE = torch.float32 if torch.backends.mps.is_available() else torch.float64


Requirement = Literal["needs_rejected", "needs_reference", "has_rewards"]


class ValidationOutput(TypedDict):
    """What `DPOModule.validation_step` returns. Callbacks receive it as `outputs` in `on_validation_batch_end`."""

    loss: PreferenceLoss
    """Loss and rewards of each pair, in the order of `batch.pair_index`."""
    logps: PairLogps
    """The log-probs that they were computed from."""


class Pairs(NamedTuple):
    """The pairs of a micro-batch: the argument of the functions in `METRICS`, each of which returns shape (pairs,)."""

    loss: PreferenceLoss
    logps: PairLogps
    weight: Tensor
    """Weight of the pair's loss. Shape: (pairs,)."""


def weighted_loss(pairs: Pairs) -> Tensor:
    """The loss that training minimizes."""
    return pairs.loss.losses * pairs.weight


def chosen_logp(pairs: Pairs) -> Tensor:
    """log π of the chosen completion, summed over its tokens."""
    return pairs.logps.chosen


def rejected_logp(pairs: Pairs) -> Tensor:
    """log π of the rejected completion, summed over its tokens."""
    return pairs.logps.rejected


def chosen_length(pairs: Pairs) -> Tensor:
    """Scored tokens of the chosen completion."""
    return pairs.logps.chosen_length


def rejected_length(pairs: Pairs) -> Tensor:
    """Scored tokens of the rejected completion."""
    return pairs.logps.rejected_length


def chosen_logratio(pairs: Pairs) -> Tensor:
    """log π − log π_ref of the chosen completion. On data, not on samples: its mean is not a KL divergence."""
    return pairs.logps.chosen_logratio


def rejected_logratio(pairs: Pairs) -> Tensor:
    """log π − log π_ref of the rejected completion."""
    return pairs.logps.rejected_logratio


def chosen_reward(pairs: Pairs) -> Tensor:
    """Reward of the chosen completion."""
    return pairs.loss.rewards[0]


def rejected_reward(pairs: Pairs) -> Tensor:
    """Reward of the rejected completion."""
    return pairs.loss.rewards[1]


def reward_margin(pairs: Pairs) -> Tensor:
    """Chosen reward minus rejected reward."""
    return pairs.loss.margins


def reward_accuracy(pairs: Pairs) -> Tensor:
    """1 if the chosen completion has the larger reward, ½ for a tie, 0 otherwise.

    >>> loss = PreferenceLoss(torch.zeros(3), torch.tensor([1.0, 0.0, 2.0]), torch.tensor([0.0, 1.0, 2.0]))
    >>> reward_accuracy(Pairs(loss, None, None))
    tensor([1.0000, 0.0000, 0.5000])
    """
    return torch.sign(pairs.loss.margins) / 2 + 0.5


def reward_tie(pairs: Pairs) -> Tensor:
    """Whether both completions have the same reward."""
    chosen, rejected = pairs.loss.rewards
    return chosen.eq(rejected)


def gradient_weight(pairs: Pairs) -> Tensor:
    """σ(r̂_l − r̂_w): the factor of a pair's gradient in DPO, section 4 of https://arxiv.org/abs/2305.18290."""
    return torch.sigmoid(-pairs.loss.margins)


def logged_value(name: str) -> "PairMetric":
    """The metric of one of the values that a loss returns in `PreferenceLoss.logged`."""

    def value(pairs: Pairs) -> Tensor:
        return pairs.loss.logged[name]

    return PairMetric(name, value)


class PairMean(Metric):
    """The mean of a value per pair over all pairs.

    Sums and counts are reduced, in float64 where the device supports it, so the result does not depend on how pairs
    are split into batches and devices.

    >>> mean = PairMean(PairMetric("loss", weighted_loss))
    >>> mean.update(PreferenceLoss(torch.tensor([1.0, 3.0])), None, torch.ones(2), torch.tensor([True, True]))
    >>> mean.compute()
    tensor(2., dtype=torch.float64)

    Args:
        metric: The value.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, metric: "PairMetric") -> None:
        super().__init__()
        self.metric = metric
        self.add_state("total", torch.zeros((), dtype=_SUM_DTYPE), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=_SUM_DTYPE), dist_reduce_fx="sum")

    @property
    def higher_is_better(self) -> bool | None:  # type: ignore[override]  # torchmetrics has one value per class
        """Whether a larger value is better; None if neither a larger nor a smaller value is."""
        return self.metric.higher_is_better

    def update(self, loss: PreferenceLoss, logps: PairLogps, weight: Tensor, counted: Tensor) -> None:
        """Add the pairs that are `counted`, not those that only fill up a device. All shapes: (pairs,)."""
        values = self.metric.value(Pairs(loss, logps, weight)).detach()
        # `where` instead of a product: 0 * inf would be NaN.
        self.add(torch.where(counted, values, 0).to(_SUM_DTYPE))
        self.count += counted.sum()

    def add(self, values: Tensor) -> None:
        """Add the values of a batch, 0 for pairs that do not count. Shape: (pairs,)."""
        self.total += values.sum()

    def compute(self) -> Tensor:
        """The mean, or NaN without any pair."""
        return self.total / self.count

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any) -> nn.Module:
        """Move the states and keep their dtype: bf16-true casts whole modules, and bf16 cannot count beyond 256.

        torchmetrics applies `fn` to the states and to the defaults that `reset` restores. Neither may be cast.
        """
        return super()._apply(lambda value: value.to(fn(value).device), *args)


class PairStd(PairMean):
    """The population standard deviation of a value per pair over all pairs."""

    squares: Tensor

    def __init__(self, metric: "PairMetric") -> None:
        super().__init__(metric)
        self.add_state("squares", torch.zeros((), dtype=_SUM_DTYPE), dist_reduce_fx="sum")

    def add(self, values: Tensor) -> None:
        """Add the values of a batch, 0 for pairs that do not count. Shape: (pairs,)."""
        super().add(values)
        self.squares += values.square().sum()

    def compute(self) -> Tensor:
        """The standard deviation, or NaN without any pair."""
        # Rounding can make the variance of equal values slightly negative.
        return (self.squares / self.count - super().compute().square()).clamp(min=0).sqrt()


class PairMetric(NamedTuple):
    """A metric of preference pairs."""

    name: str
    """Name after `train/`, `val/` or `val/<source>/`."""
    value: Callable[[Pairs], Tensor]
    """The value of each pair. A bool counts as 0 or 1, so that the mean is a share. Shape: (pairs,)."""
    kind: type[PairMean] = PairMean
    """How the values are reduced: `PairMean` (a mean or a share) or `PairStd`."""
    higher_is_better: bool | None = None
    """Whether a larger value is better; None if neither a larger nor a smaller value is."""
    requires: tuple[Requirement, ...] = ()
    """What the loss must declare; for other losses, the metric is not defined."""


_REWARDS: tuple[Requirement, ...] = ("needs_rejected", "has_rewards")

METRICS = (
    PairMetric("loss", weighted_loss, higher_is_better=False),
    PairMetric("logps/chosen", chosen_logp),
    PairMetric("length/chosen", chosen_length),
    PairMetric("logps/rejected", rejected_logp, requires=("needs_rejected",)),
    PairMetric("length/rejected", rejected_length, requires=("needs_rejected",)),
    PairMetric("rewards/chosen", chosen_reward, requires=_REWARDS),
    PairMetric("rewards/rejected", rejected_reward, requires=_REWARDS),
    PairMetric("rewards/margins", reward_margin, higher_is_better=True, requires=_REWARDS),
    PairMetric("rewards/accuracies", reward_accuracy, higher_is_better=True, requires=_REWARDS),
    PairMetric("rewards/ties", reward_tie, requires=_REWARDS),
    PairMetric("gradient_weight", gradient_weight, requires=_REWARDS),
    PairMetric("logratios/chosen", chosen_logratio, requires=("needs_reference",)),
    PairMetric("logratios/rejected", rejected_logratio, requires=("needs_reference", "needs_rejected")),
)


def preference_metrics(prefix: str, loss: PreferenceLossFunction) -> MetricCollection:
    """The metrics that are defined for a loss.

    Args:
        prefix: `train/`, `val/`, `test/`, or the last two with a source: `val/<source>/`.
        loss: Its `needs_rejected`, `needs_reference` and `has_rewards` decide which metrics are defined.
    """
    defined = [metric for metric in METRICS if all(getattr(loss, name) for name in metric.requires)]
    defined += map(logged_value, loss.logged)
    metrics: dict[str, Metric | MetricCollection] = {metric.name: metric.kind(metric) for metric in defined}
    # Compute groups would merge metrics with equal states after the first update: before training, all rewards are 0.
    return MetricCollection(metrics, prefix=prefix, compute_groups=False)


def metrics_of_sources(prefix: str, sources: Sequence[str], loss: PreferenceLossFunction) -> list[MetricCollection]:
    """Metrics of each source; none if there is only one. The prefix is `val/` or `test/`."""
    return [preference_metrics(f"{prefix}{name}/", loss) for name in sources] if len(sources) > 1 else []
