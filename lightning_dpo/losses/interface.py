"""The contract of a loss: log-probs of pairs in; a loss and, if it has them, two rewards per pair out."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_dpo.batch import CompletionLogps, PreferenceBatch


class NotComputed(ValueError):
    """A loss or a metric reads log-probs that the loss does not declare."""


def needed(value: Tensor | None, what: str) -> Tensor:
    """Return `value`, which the caller reads.

    Raises:
        NotComputed: It is None, because the loss does not declare that it needs `what`.
    """
    if value is None:
        raise NotComputed(f"{what} were not computed; see needs_reference, needs_rejected and has_rewards of the loss")
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
        offset: Target reward margin per answer, in units of the reward. Shape: (pairs,).
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
        return self.chosen - needed(self.reference_chosen, "reference log-probs")

    @property
    def rejected_logratio(self) -> Tensor:
        """log π(y_l|x) − log π_ref(y_l|x). Shape: (pairs,)."""
        rejected = needed(self.rejected, "log-probs of rejected completions")
        return rejected - needed(self.reference_rejected, "reference log-probs")

    def at_start(self) -> "PairLogps":
        """The same pairs under an untrained policy, which equals the reference. No gradient."""
        return PairLogps(
            needed(self.reference_chosen, "reference log-probs"),
            self.reference_rejected,
            self.reference_chosen,
            self.reference_rejected,
            self.chosen_length,
            self.rejected_length,
            self.offset,
            self.mean_chosen_length,
        )


def pair_logps(policy: CompletionLogps, reference: CompletionLogps | None, batch: PreferenceBatch) -> PairLogps:
    """Select the completions of each pair from the log-probs of the policy and, if there is one, the reference."""
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
    """The result of a loss for each pair. The rewards are detached.

    Attributes:
        losses: Loss before weights. A step's loss is `sum(weight * losses) / step_pairs`. Shape: (pairs,).
        chosen_rewards: Reward of y_w, or None for a loss without rewards. Shape: (pairs,).
        rejected_rewards: Reward of y_l, or None for a loss without rewards. Shape: (pairs,).
    """

    losses: Tensor
    chosen_rewards: Tensor | None = None
    rejected_rewards: Tensor | None = None

    @property
    def rewards(self) -> tuple[Tensor, Tensor]:
        """Rewards of y_w and of y_l. Shapes: (pairs,)."""
        return needed(self.chosen_rewards, "rewards"), needed(self.rejected_rewards, "rewards")

    @property
    def margins(self) -> Tensor:
        """Reward of y_w minus reward of y_l. Shape: (pairs,)."""
        chosen, rejected = self.rewards
        return chosen - rejected


class PreferenceLossFunction(ABC):
    """A loss on preference pairs: a frozen dataclass without state.

    A subclass implements `losses` and, if it has rewards, `rewards`. The class attributes declare what it needs; a
    subclass overrides them with plain assignments. Nothing else of a loss is read outside of it.
    """

    needs_reference: bool = True
    """Whether the loss reads reference log-probs. If it does not, `reference` must be `auto` or `none`."""
    needs_rejected: bool = True
    """Whether the loss reads rejected completions. If it does not, they are not computed in training."""
    has_rewards: bool = True
    """Whether `rewards` is defined. If it is not, no `rewards/*` are logged and `evaluate` rejects the loss."""
    columns: frozenset[str] = frozenset({"weight", "offset"})
    """Per-pair columns of the data that have an effect. The training step itself multiplies losses by `weight`."""

    @abstractmethod
    def losses(self, pairs: PairLogps) -> Tensor:
        """The loss of each pair, before weights. Shape: (pairs,)."""

    def rewards(self, policy: CompletionLogps, reference: CompletionLogps | None) -> Tensor:
        """The reward of each completion.

        Args:
            policy: Log-probs of any number of completions.
            reference: Reference log-probs of the same completions; None if the loss needs no reference.

        Returns:
            Rewards. Shape: (completions,).
        """
        raise NotImplementedError(f"{type(self).__name__} does not define rewards()")

    def __call__(self, pairs: PairLogps) -> PreferenceLoss:
        """The loss of each pair and, if `has_rewards`, the rewards of its completions."""
        losses = self.losses(pairs)
        if not (self.has_rewards and pairs.rejected is not None and pairs.rejected_length is not None):
            return PreferenceLoss(losses)
        # Rewards are only reported, so they need no gradient.
        with torch.no_grad():
            chosen = self._pair_rewards(pairs.chosen, pairs.chosen_length, pairs.reference_chosen)
            rejected = self._pair_rewards(pairs.rejected, pairs.rejected_length, pairs.reference_rejected)
        return PreferenceLoss(losses, chosen, rejected)

    def _pair_rewards(self, sums: Tensor, lengths: Tensor, reference: Tensor | None) -> Tensor:
        reference_logps = None if reference is None else CompletionLogps(reference, lengths)
        return self.rewards(CompletionLogps(sums, lengths), reference_logps)


@dataclass(frozen=True)
class ImplicitRewards(PreferenceLossFunction):
    """Base of losses with the reward β(log π − log π_ref).

    Eq. 5 of https://arxiv.org/abs/2305.18290 without β log Z(x), which is the same for all answers to a prompt.

    Args:
        beta: Strength of the KL constraint, per nat of log-ratio. Positive.
    """

    beta: float = 0.1

    def __post_init__(self) -> None:
        if isinstance(self.beta, bool) or not isinstance(self.beta, int | float) or not 0 < self.beta < float("inf"):
            raise ValueError(f"beta must be a positive number, got {self.beta!r}")

    def rewards(self, policy: CompletionLogps, reference: CompletionLogps | None) -> Tensor:
        """β times the summed log-ratio of each completion. Shape: (completions,)."""
        reference_sums = needed(None if reference is None else reference.sums, "reference log-probs")
        return self.beta * (policy.sums - reference_sums)

    def margins(self, pairs: PairLogps) -> Tensor:
        """Reward margin minus the pair's offset, with gradient. Shape: (pairs,)."""
        return self.beta * pairs.chosen_logratio - self.beta * pairs.rejected_logratio - pairs.offset
