"""The contract of a loss: log-probs of pairs in; a loss and, if it has them, two rewards per pair out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_dpo.batch import CompletionLogps, needed
from lightning_dpo.losses.checks import check_number
from lightning_dpo.losses.pairs import PairLogps, reference_of, rejected_of

COLUMNS = frozenset({"weight", "offset", "label_noise"})
"""The numeric columns of a pair."""


@dataclass(frozen=True, slots=True)
class PreferenceLoss:
    """The result of a loss for each pair. Rewards and logged values are detached.

    Attributes:
        losses: Loss before weights. A step's loss is `sum(weight * losses) / step_pairs`. Shape: (pairs,).
        chosen_rewards: Reward of y_w, or None for a loss without rewards. Shape: (pairs,).
        rejected_rewards: Reward of y_l, or None for a loss without rewards. Shape: (pairs,).
        logged: Further values to log, by name, such as the terms of a composed loss. Shapes: (pairs,).
    """

    losses: Tensor
    chosen_rewards: Tensor | None = None
    rejected_rewards: Tensor | None = None
    logged: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def rewards(self) -> tuple[Tensor, Tensor]:
        """Rewards of y_w and of y_l. Shapes: (pairs,).

        Raises:
            NotComputed: The loss has no rewards, or rejected completions were not computed.
        """
        chosen, rejected = (
            needed(rewards, "rewards", "has_rewards or needs_rejected")
            for rewards in (self.chosen_rewards, self.rejected_rewards)
        )
        return chosen, rejected

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
    needs_tokens: bool = False
    """Whether the loss reads log-probs of tokens, and not only sums."""
    reads_lengths: bool = False
    """Whether the loss reads the number of tokens. `LengthNormalized` and `LDDPO` cannot hold it then."""
    whole_step: bool = False
    """Whether the loss compares pairs with each other. It is then called once with all pairs of the optimizer step."""
    has_rewards: bool = True
    """Whether `rewards` is defined. If it is not, no `rewards/*` are logged and `evaluate` rejects the loss."""
    columns: frozenset[str] = frozenset({"weight", "label_noise"})
    """Numeric columns of the data that have an effect: `weight`, `offset`, `label_noise`. For all losses, the training
    step multiplies by `weight`, and `__call__` uses `label_noise`."""
    logged: tuple[str, ...] = ()
    """Names of the values that `logged_values` returns."""

    @property
    def kl_beta(self) -> float | None:
        """β of the objective E[r] − β KL(π‖π_ref) at whose optimum the loss is least; None: it is not known."""
        return None

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

    def logged_values(self, pairs: PairLogps) -> dict[str, Tensor]:
        """Further values of each pair to log, with the names in `logged`. Called without gradient. Shapes: (pairs,)."""
        return {}

    def pair_rewards(self, pairs: PairLogps) -> tuple[Tensor, Tensor]:
        """Rewards of y_w and of y_l, with gradient. Shapes: (pairs,)."""
        chosen, rejected = pairs.policy
        return self.rewards(chosen, pairs.reference[0]), self.rewards(rejected_of(rejected), pairs.reference[1])

    def margins(self, pairs: PairLogps) -> Tensor:
        """Reward margin minus the pair's offset, with gradient. Shape: (pairs,)."""
        chosen, rejected = self.pair_rewards(pairs)
        return chosen - rejected - pairs.offset

    def __call__(self, pairs: PairLogps) -> PreferenceLoss:
        """The loss of each pair and, if `has_rewards`, the rewards of its completions.

        With `label_noise` ν, the loss is its expectation over labels: (1−ν) L(y_w ≻ y_l) + ν L(y_l ≻ y_w).
        """
        losses = self.losses(pairs)
        if pairs.label_noise is not None and "label_noise" in self.columns:
            noise = pairs.label_noise
            losses = (1 - noise) * losses + noise * self.losses(pairs.swapped())
        # Rewards and logged values are only reported, so they need no gradient.
        with torch.no_grad():
            logged = self.logged_values(pairs)
            if not (self.has_rewards and pairs.has_rejected):
                return PreferenceLoss(losses, logged=logged)
            return PreferenceLoss(losses, *self.pair_rewards(pairs), logged)


@dataclass(frozen=True)
class ImplicitRewards(PreferenceLossFunction):
    """Base of losses with the reward β(log π − log π_ref).

    Eq. 5 of https://arxiv.org/abs/2305.18290 without β log Z(x), which is the same for all answers to a prompt.

    Args:
        beta: Strength of the KL constraint, per nat of log-ratio. Positive.
    """

    beta: float = 0.1

    def __post_init__(self) -> None:
        check_number("beta", self.beta, "a positive number", lambda beta: beta > 0)

    def rewards(self, policy: CompletionLogps, reference: CompletionLogps | None) -> Tensor:
        """β times the summed log-ratio of each completion. Shape: (completions,)."""
        return self.beta * self.logratios(policy, reference)

    @staticmethod
    def logratios(policy: CompletionLogps, reference: CompletionLogps | None) -> Tensor:
        """log π − log π_ref of each completion. Shape: (completions,)."""
        return policy.sums - reference_of(reference).sums
