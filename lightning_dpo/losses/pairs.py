"""Log-probs of preference pairs: the input of a loss."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from torch import Tensor

from lightning_dpo.batch import CompletionLogps, PreferenceBatch, needed


@dataclass(frozen=True, slots=True)
class PairLogps:
    """Log-probs of the completions of pairs under the policy and its reference.

    A property raises `NotComputed` if the loss does not declare that it needs the value.

    Attributes:
        policy: Log-probs of the chosen and the rejected completions; None for rejected ones that are not computed.
        reference: The same under the reference; None without a reference.
        offset: Target reward margin per answer, in units of the reward. Shape: (pairs,).
        mean_chosen_length: Mean `chosen_length` over the pairs of the whole optimizer step. Shape: ().
        label_noise: Probability that the rejected answer is the better one; None if it is 0 for all pairs. Shape:
            (pairs,).
    """

    policy: tuple[CompletionLogps, CompletionLogps | None]
    reference: tuple[CompletionLogps | None, CompletionLogps | None]
    offset: Tensor
    mean_chosen_length: Tensor
    label_noise: Tensor | None = None

    @property
    def chosen(self) -> Tensor:
        """log π(y_w|x), summed over scored tokens, in nats. Shape: (pairs,), float32."""
        return self.policy[0].sums

    @property
    def rejected(self) -> Tensor:
        """log π(y_l|x). Shape: (pairs,)."""
        return rejected_of(self.policy[1]).sums

    @property
    def reference_chosen(self) -> Tensor:
        """log π_ref(y_w|x). Shape: (pairs,)."""
        return reference_of(self.reference[0]).sums

    @property
    def reference_rejected(self) -> Tensor:
        """log π_ref(y_l|x). Shape: (pairs,)."""
        rejected_of(self.policy[1])
        return reference_of(self.reference[1]).sums

    @property
    def chosen_length(self) -> Tensor:
        """Scored tokens of y_w. Shape: (pairs,), float32."""
        return self.policy[0].lengths

    @property
    def rejected_length(self) -> Tensor:
        """Scored tokens of y_l. Shape: (pairs,), float32."""
        return rejected_of(self.policy[1]).lengths

    @property
    def chosen_tokens(self) -> Tensor:
        """Log-prob of each scored token of y_w, 0 after the last one. Shape: (pairs, longest), float32."""
        return self.policy[0].tokens

    @property
    def rejected_tokens(self) -> Tensor:
        """Log-prob of each scored token of y_l, 0 after the last one. Shape: (pairs, longest), float32."""
        return rejected_of(self.policy[1]).tokens

    @property
    def chosen_logratio(self) -> Tensor:
        """log π(y_w|x) − log π_ref(y_w|x). Shape: (pairs,)."""
        return self.chosen - self.reference_chosen

    @property
    def rejected_logratio(self) -> Tensor:
        """log π(y_l|x) − log π_ref(y_l|x). Shape: (pairs,)."""
        return self.rejected - self.reference_rejected

    @property
    def has_rejected(self) -> bool:
        """Whether the rejected completions were computed."""
        return self.policy[1] is not None

    def at_start(self) -> "PairLogps":
        """The same pairs under an untrained policy, which equals the reference. No gradient."""
        chosen, rejected = self.reference
        return replace(self, policy=(reference_of(chosen), rejected))

    def swapped(self) -> "PairLogps":
        """The same pairs with the opposite labels."""
        policy, reference = (rejected_of(self.policy[1]), self.policy[0]), self.reference[::-1]
        return replace(self, policy=policy, reference=reference, offset=-self.offset)

    def with_completions(self, function: Callable[[CompletionLogps], CompletionLogps]) -> "PairLogps":
        """The same pairs with `function` of the log-probs of each completion, under policy and reference."""
        (chosen, rejected), reference = self.policy, self.reference
        policy = function(chosen), rejected and function(rejected)
        return replace(
            self,
            policy=policy,
            reference=(reference[0] and function(reference[0]), reference[1] and function(reference[1])),
        )

    def tensors(self) -> list[Tensor]:
        """The values per pair, without those of tokens and without label noise. Shapes: (pairs,)."""
        completions = (one for one in (*self.policy, *self.reference) if one is not None)
        return [*(value for one in completions for value in (one.sums, one.lengths)), self.offset]

    def with_tensors(self, tensors: Iterable[Tensor]) -> "PairLogps":
        """Pairs with other values: a list as `tensors` returns it."""
        values = iter(tensors)
        changed = self.with_completions(lambda _: CompletionLogps(next(values), next(values)))
        return replace(changed, offset=next(values), label_noise=None)


def pair_logps(policy: CompletionLogps, reference: CompletionLogps | None, batch: PreferenceBatch) -> PairLogps:
    """Select the completions of each pair from the log-probs of the policy and, if there is one, the reference."""
    both = len(batch.rejected) > 0
    return PairLogps(
        policy=(policy.select(batch.chosen), policy.select(batch.rejected) if both else None),
        reference=(
            reference.select(batch.chosen) if reference else None,
            reference.select(batch.rejected) if reference and both else None,
        ),
        offset=batch.offset,
        mean_chosen_length=batch.step_chosen_tokens / batch.step_pairs,
        label_noise=batch.label_noise,
    )


def rejected_of(completions: CompletionLogps | None) -> CompletionLogps:
    """`completions`, which the caller reads; raises NotComputed if they are not computed."""
    return needed(completions, "log-probs of rejected completions", "needs_rejected")


def reference_of(completions: CompletionLogps | None) -> CompletionLogps:
    """`completions`, which the caller reads; raises NotComputed without a reference."""
    return needed(completions, "reference log-probs", "needs_reference")
