"""What a run reports of its pairs: means over all of them, from sums and counts, exact on any number of devices."""

from collections.abc import Callable
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from lightning_dpo.losses.interface import PairLogps, PreferenceLoss, PreferenceLossFunction, needed

# Apple's GPUs have no float64.
_SUM_DTYPE = torch.float32 if torch.backends.mps.is_available() else torch.float64


class ValidationOutput(TypedDict):
    """What `DPOModule.validation_step` returns: callbacks get it as `outputs` in `on_validation_batch_end`."""

    loss: PreferenceLoss
    """Loss and rewards of each pair, in the order of `batch.pair_index`."""
    logps: PairLogps
    """The log-probs that they were computed from."""


class PairMean(Metric):
    """The mean over pairs of one value per pair. Subclasses say which in `values`.

    Sums are reduced as sums, in float64 where the device has it: the mean is that of all pairs, however they were cut
    into batches.
    """

    full_state_update = False
    higher_is_better: bool | None = None
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=_SUM_DTYPE), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=_SUM_DTYPE), dist_reduce_fx="sum")

    def update(self, loss: PreferenceLoss, logps: PairLogps, weight: Tensor, counted: Tensor) -> None:
        """Take the pairs of a batch that are `counted`, not those that fill up a device. All shapes: (pairs,)."""
        values = self.values(loss, logps, weight)
        # `where`, not a product: zero times an infinite value would be NaN.
        self.total += torch.where(counted, values.detach(), 0).to(_SUM_DTYPE).sum()
        self.count += counted.sum()

    def values(self, loss: PreferenceLoss, logps: PairLogps, weight: Tensor) -> Tensor:
        """The value of each pair. Shape: (pairs,)."""
        raise NotImplementedError

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any) -> nn.Module:
        """Move, but stay in the dtype of sums: bf16-true casts whole modules, and bf16 cannot count past 256.

        torchmetrics applies `fn` to the states and to the defaults that `reset` takes them from; neither may be cast.
        """
        return super()._apply(lambda value: value.to(fn(value).device), *args)

    def compute(self) -> Tensor:
        """The mean, or NaN when no pair was seen."""
        return self.total / self.count


class Loss(PairMean):
    """The loss as it is trained on: weighted, over the number of pairs."""

    def values(self, loss: PreferenceLoss, logps: PairLogps, weight: Tensor) -> Tensor:
        return loss.losses * weight


class ChosenReward(PairMean):
    """β(log π − log π_ref) of the chosen completion."""

    def values(self, loss: PreferenceLoss, logps: PairLogps, weight: Tensor) -> Tensor:
        return loss.rewards[0]


class RejectedReward(PairMean):
    """β(log π − log π_ref) of the rejected completion."""

    def values(self, loss: PreferenceLoss, logps: PairLogps, weight: Tensor) -> Tensor:
        return loss.rewards[1]


class RewardMargin(PairMean):
    """Chosen reward less rejected reward."""

    def values(self, loss: PreferenceLoss, logps: PairLogps, weight: Tensor) -> Tensor:
        return loss.margins


class RewardAccuracy(PairMean):
    """Share of pairs whose chosen completion has the larger reward; a tie counts one half."""

    def values(self, loss: PreferenceLoss, logps: PairLogps, weight: Tensor) -> Tensor:
        return torch.sign(loss.margins) / 2 + 0.5


class RewardTies(PairMean):
    """Share of pairs whose two rewards are equal."""

    def values(self, loss: PreferenceLoss, logps: PairLogps, weight: Tensor) -> Tensor:
        chosen, rejected = loss.rewards
        return chosen.eq(rejected).float()


class ChosenLogps(PairMean):
    """log π of the chosen completion, summed over its tokens."""

    def values(self, loss: PreferenceLoss, logps: PairLogps, weight: Tensor) -> Tensor:
        return logps.chosen


class RejectedLogps(PairMean):
    """log π of the rejected completion, summed over its tokens."""

    def values(self, loss: PreferenceLoss, logps: PairLogps, weight: Tensor) -> Tensor:
        return needed(logps.rejected, "rejected completions")


class ChosenLogratio(PairMean):
    """log π − log π_ref of the chosen completion, unscaled. On data, not on samples: this is no KL."""

    def values(self, loss: PreferenceLoss, logps: PairLogps, weight: Tensor) -> Tensor:
        return logps.chosen_logratio


class RejectedLogratio(PairMean):
    """log π − log π_ref of the rejected completion, unscaled."""

    def values(self, loss: PreferenceLoss, logps: PairLogps, weight: Tensor) -> Tensor:
        return logps.rejected_logratio


class ChosenLength(PairMean):
    """Scored tokens of the chosen completion."""

    def values(self, loss: PreferenceLoss, logps: PairLogps, weight: Tensor) -> Tensor:
        return logps.chosen_length


class RejectedLength(PairMean):
    """Scored tokens of the rejected completion."""

    def values(self, loss: PreferenceLoss, logps: PairLogps, weight: Tensor) -> Tensor:
        return needed(logps.rejected_length, "rejected completions")


def preference_metrics(prefix: str, loss: PreferenceLossFunction) -> MetricCollection:
    """The metrics that are defined for a loss, under the names that dashboards know.

    Args:
        prefix: `train/` or `val/`.
        loss: Its `has_rewards`, `needs_reference` and `needs_rejected` decide which those are.
    """
    metrics: dict[str, Metric | MetricCollection] = {"loss": Loss()}
    metrics |= {"logps/chosen": ChosenLogps(), "length/chosen": ChosenLength()}
    if loss.needs_rejected:
        metrics |= {"logps/rejected": RejectedLogps(), "length/rejected": RejectedLength()}
    if loss.needs_rejected and loss.has_rewards:
        metrics |= {
            "rewards/chosen": ChosenReward(),
            "rewards/rejected": RejectedReward(),
            "rewards/margins": RewardMargin(),
            "rewards/accuracies": RewardAccuracy(),
            "rewards/ties": RewardTies(),
        }
    if loss.needs_rejected and loss.needs_reference:
        metrics |= {"logratios/chosen": ChosenLogratio(), "logratios/rejected": RejectedLogratio()}
    # Compute groups merge metrics whose states are equal after the first update; before training all rewards are 0.
    return MetricCollection(metrics, prefix=prefix, compute_groups=False)
