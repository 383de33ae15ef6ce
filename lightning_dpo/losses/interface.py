"""What every loss takes and gives."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lightning_dpo.batch import CompletionLogps, PreferenceBatch


def needed(value: Tensor | None, what: str) -> Tensor:
    """`value`, which a loss or a metric reads.

    Raises:
        ValueError: It is None: the loss does not declare that it needs `what`.
    """
    if value is None:
        raise ValueError(f"there are no {what}: see needs_reference, needs_rejected and has_rewards of the loss")
    return value


@dataclass(frozen=True, slots=True)
class PairLogps:
    """Log-probabilities of the completions of pairs: sums over scored tokens, in nats, float32.

    Attributes:
        chosen: log π(y_w|x). Shape: (pairs,).
        rejected: log π(y_l|x), or None where only chosen completions were scored. Shape: (pairs,).
        reference_chosen: log π_ref(y_w|x), or None without a reference. Shape: (pairs,).
        reference_rejected: log π_ref(y_l|x), or None. Shape: (pairs,).
        chosen_length: Scored tokens of y_w. Shape: (pairs,).
        rejected_length: Scored tokens of y_l, or None. Shape: (pairs,).
        offset: By how much the reward margin should exceed zero. Shape: (pairs,).
        mean_chosen_length: Mean `chosen_length` over the pairs of the whole optimizer step. Shape: ().
    """

    chosen: Tensor
    rejected: Tensor | None
    reference_chosen: Tensor | None
    reference_rejected: Tensor | None
    chosen_length: Tensor
    rejected_length: Tensor | None
    offset: Tensor
    mean_chosen_length: Tensor

    @property
    def chosen_logratio(self) -> Tensor:
        """log π(y_w|x) − log π_ref(y_w|x). Shape: (pairs,)."""
        return self.chosen - needed(self.reference_chosen, "log-probs of a reference")

    @property
    def rejected_logratio(self) -> Tensor:
        """log π(y_l|x) − log π_ref(y_l|x). Shape: (pairs,)."""
        rejected = needed(self.rejected, "log-probs of rejected completions")
        return rejected - needed(self.reference_rejected, "log-probs of a reference")

    def at_start(self) -> "PairLogps":
        """The same pairs under a policy that still is the reference, without gradient."""
        return PairLogps(
            needed(self.reference_chosen, "log-probs of a reference"),
            self.reference_rejected,
            self.reference_chosen,
            self.reference_rejected,
            self.chosen_length,
            self.rejected_length,
            self.offset,
            self.mean_chosen_length,
        )


def pair_logps(policy: CompletionLogps, reference: CompletionLogps | None, batch: PreferenceBatch) -> PairLogps:
    """Pick the completions of each pair out of what the policy and, if there is one, the reference gave."""
    both = len(batch.rejected) > 0
    return PairLogps(
        chosen=policy.sums[batch.chosen],
        rejected=policy.sums[batch.rejected] if both else None,
        reference_chosen=reference.sums[batch.chosen] if reference else None,
        reference_rejected=reference.sums[batch.rejected] if reference and both else None,
        chosen_length=policy.lengths[batch.chosen],
        rejected_length=policy.lengths[batch.rejected] if both else None,
        offset=batch.offset,
        mean_chosen_length=batch.step_chosen_tokens / batch.step_pairs,
    )


@dataclass(frozen=True, slots=True)
class PreferenceLoss:
    """What a loss says of each pair; the rewards carry no gradient.

    Attributes:
        losses: Loss before weights. A step's loss is `sum(weight * losses) / step_pairs`. Shape: (pairs,).
        chosen_rewards: β(log π − log π_ref) of y_w, or None for a loss that knows no reward. Shape: (pairs,).
        rejected_rewards: The same of y_l. Shape: (pairs,).
    """

    losses: Tensor
    chosen_rewards: Tensor | None = None
    rejected_rewards: Tensor | None = None

    @property
    def rewards(self) -> tuple[Tensor, Tensor]:
        """The rewards of y_w and of y_l, of a loss that has them. Shapes: (pairs,)."""
        return needed(self.chosen_rewards, "rewards"), needed(self.rejected_rewards, "rewards")

    @property
    def margins(self) -> Tensor:
        """Reward of y_w less reward of y_l. Shape: (pairs,)."""
        chosen, rejected = self.rewards
        return chosen - rejected


class PreferenceLossFunction(ABC):
    """A loss on preference pairs. One without state is a frozen dataclass; one with state also an `nn.Module`."""

    needs_reference: ClassVar[bool] = True
    """Whether the loss compares with a reference; then `reference=none` is an error, else any other is."""
    needs_rejected: ClassVar[bool] = True
    """Whether the loss reads rejected completions; otherwise they need not be computed."""
    has_rewards: ClassVar[bool] = True
    """Whether the loss gives the two rewards of each pair; otherwise no `rewards/*` are logged."""

    @abstractmethod
    def __call__(self, logps: PairLogps) -> PreferenceLoss:
        """The loss and the rewards of each pair."""


def check_beta(beta: float) -> None:
    """Refuse a β that is not a positive, finite number."""
    if isinstance(beta, bool) or not isinstance(beta, int | float) or not 0 < beta < float("inf"):
        raise ValueError(f"beta must be a positive number, got {beta!r}")


def implicit_rewards(beta: float, logps: PairLogps) -> tuple[Tensor, Tensor]:
    """β(log π − log π_ref) of chosen and rejected: Eq. 5 of https://arxiv.org/abs/2305.18290 less β log Z(x)."""
    return beta * logps.chosen_logratio, beta * logps.rejected_logratio
