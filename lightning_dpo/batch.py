"""The types that data and module share: tokenized pairs, batches, and log-probs of completions."""

import inspect
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, dataclass_transform

import torch
from torch import Tensor

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class TokenizedPair:
    """A tokenized pair.

    All tokens of a completion are scored, including its end token, unless `chosen_scored` or `rejected_scored` has a
    flag per token. They exclude, for example, the user's later messages in a dialogue.
    """

    index: int
    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    chosen_scored: list[bool] | None = None
    rejected_scored: list[bool] | None = None
    weight: float = 1.0
    offset: float = 0.0
    label_noise: float = 0.0
    source: int = 0
    chosen_logps: Sequence[float] | None = None
    """Log-probs of the scored tokens of the chosen completion under the reference, if the cache has them."""
    rejected_logps: Sequence[float] | None = None


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """The pairs of one forward pass, and the totals of their optimizer step, which the loss needs."""

    pairs: Sequence[TokenizedPair]
    counted: Sequence[bool]
    """False for a filler pair, which only gives a device something to compute and does not count."""
    step_pairs: int
    """Number of pairs of the whole step, without fillers."""
    step_chosen_tokens: int
    """Number of scored tokens of their chosen completions."""


class Stretch(NamedTuple):
    """Consecutive tokens of a stream. Each attends to the tokens before it in the stretch and to a whole prefix."""

    length: int
    """Number of tokens."""
    prefix: int
    """Length of the prefix: the first tokens of the latest stretch whose own prefix is 0. For a further completion, it
    is the prompt. For a prompt and its first completion, which form one stretch, it is 0."""


class Segments:
    """The stretches of a stream, in order.

    A plain class, because FSDP copies dataclasses and casts their tensors at the input of every layer.

    Attributes:
        stretches: Prompt and first completion of a group, then each further completion, then the next group.
    """

    def __init__(self, stretches: Iterable[Stretch]) -> None:
        self.stretches = tuple(stretches)
        self._made: dict[Hashable, Any] = {}

    def made(self, what: Hashable, make: Callable[[], _T]) -> _T:
        """The result of `make`, cached: masks and indices are the same in every layer."""
        if what not in self._made:
            self._made[what] = make()
        return self._made[what]

    def __getstate__(self) -> tuple[Stretch, ...]:
        return self.stretches

    def __setstate__(self, stretches: tuple[Stretch, ...]) -> None:
        self.stretches, self._made = stretches, {}

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Segments":
        """Itself: lengths are needed on the CPU, and `made` creates tensors on the device that needs them."""
        return self

    def pin_memory(self) -> "Segments":
        """Itself: it has no tensors."""
        return self


@dataclass_transform(kw_only_default=True, frozen_default=True)
class _Immutable:
    """A class with one immutable attribute per annotation, set by keyword. Type checkers treat it like a dataclass."""

    def __init_subclass__(cls) -> None:
        keyword = inspect.Parameter.KEYWORD_ONLY
        hints = {name: hint for base in reversed(cls.__mro__) for name, hint in inspect.get_annotations(base).items()}
        parameters = [inspect.Parameter(name, keyword, annotation=hint) for name, hint in hints.items()]
        cls.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by `help`

    def __init__(self, **fields: Any) -> None:
        inspect.signature(type(self)).bind(**fields)  # raises TypeError for a missing or an unknown name
        vars(self).update(fields)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a {type(self).__name__} is immutable: create a new one with another {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a {type(self).__name__} is immutable: {name} cannot be deleted")


class PreferenceBatch(_Immutable):
    """Completions in one of the layouts, and preference pairs as indices into them. Immutable.

    Not a dataclass: Lightning's precision plugins raise on frozen dataclasses, and cast the floating-point tensors of
    dictionaries, named tuples and other dataclasses to the compute dtype. Numeric columns must stay float32.

    Attributes:
        input_ids: Token ids. Shape: (rows, length), int64.
        position_ids: Position of every token, counted from the start of its prompt. Shape: (rows, length), int64. None
            in the padded layout, in which the model's default positions are right.
        segments: The stretches of the stream and their prefixes. None in the padded layout: its rows are independent,
            and causal attention ignores padding on the right.
        row_lengths: Number of positions of each row without padding. Shape: (rows,), int64.
        score_index: Flat position in `input_ids` whose hidden state predicts a scored token. Shape: (scored,), int64.
        target_ids: The scored token. Shape: (scored,), int64.
        completion_index: The completion of the scored token. Shape: (scored,), int64.
        completion_lengths: Number of scored tokens of each completion. Shape: (completions,), float32.
        reference_logps: Log-probs of the scored tokens under the reference, from its cache; None: not in the cache, or
            not needed. Shape: (scored,), float32.
        chosen: Index of the preferred completion of each pair. Shape: (pairs,), int64.
        rejected: Index of the other completion; empty if only chosen ones are in the batch. Shape: (pairs,) or (0,),
            int64.
        pair_index: Row of the pair in its dataset, for messages. Shape: (pairs,), int64.
        weight: Factor of the pair's loss; 0 for a filler. Shape: (pairs,), float32.
        counted: False for a filler pair. Shape: (pairs,), bool.
        offset: Target reward margin (ODPO) per answer, in units of the reward. Shape: (pairs,), float32.
        label_noise: Probability that the rejected completion is the better one; None if it is 0 for all pairs. Shape:
            (pairs,), float32.
        source: Index of the data source of the pair. Shape: (pairs,), int64.
        step_pairs: Number of pairs in the optimizer step, on all devices. Shape: (), float32.
        step_chosen_tokens: Number of scored tokens of their chosen completions. Shape: (), float32.
    """

    input_ids: Tensor
    position_ids: Tensor | None
    segments: Segments | None
    row_lengths: Tensor
    score_index: Tensor
    target_ids: Tensor
    completion_index: Tensor
    completion_lengths: Tensor
    reference_logps: Tensor | None
    chosen: Tensor
    rejected: Tensor
    pair_index: Tensor
    weight: Tensor
    counted: Tensor
    offset: Tensor
    label_noise: Tensor | None
    source: Tensor
    step_pairs: Tensor
    step_chosen_tokens: Tensor

    @property
    def tokens(self) -> Tensor:
        """Number of positions without padding. Shape: (), int64."""
        return self.row_lengths.sum()

    @property
    def attention_mask(self) -> Tensor:
        """Which positions are not padding. Shape: (rows, length), int64."""
        positions = torch.arange(self.input_ids.shape[1], device=self.input_ids.device)
        return (positions < self.row_lengths[:, None]).long()

    def __repr__(self) -> str:
        layout = "padded" if self.segments is None else "shared"
        shape = tuple(self.input_ids.shape)
        return (
            f"PreferenceBatch({len(self.chosen)} pairs, {len(self.completion_lengths)} completions, {layout}: {shape})"
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "PreferenceBatch":
        """The same batch on `device`, with the same dtypes."""
        return self._map(lambda value: value.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "PreferenceBatch":
        """The same batch in page-locked memory."""
        return self._map(lambda value: value.pin_memory())

    def _map(self, function: Callable[[Any], Any]) -> "PreferenceBatch":
        changed = {name: None if value is None else function(value) for name, value in vars(self).items()}
        return PreferenceBatch(**changed)  # type: ignore[arg-type]  # each value has the type that it had


class NotComputed(ValueError):
    """A loss or a metric reads log-probs that the loss does not declare."""


def needed(value: _T | None, what: str, declaration: str) -> _T:
    """Return `value`, which the caller reads.

    Raises:
        NotComputed: It is None, because the loss declares that it does not need `what`.
    """
    if value is None:
        raise NotComputed(f"{what} were not computed, because the loss has {declaration} = False")
    return value


@dataclass(frozen=True, slots=True)
class CompletionLogps:
    """Log-probabilities of completions given their prompts."""

    sums: Tensor
    """Sum over the scored tokens, in nats. Shape: (completions,), float32 for any lower precision."""
    lengths: Tensor
    """Number of scored tokens. Shape: (completions,), float32."""
    token_logps: Tensor | None = None
    """`tokens`; None for a loss without `needs_tokens`."""

    @property
    def tokens(self) -> Tensor:
        """Log-prob of each scored token, 0 after the last one. Shape: (completions, longest), float32.

        Raises:
            NotComputed: The loss does not declare that it needs them.
        """
        return needed(self.token_logps, "log-probs of tokens", "needs_tokens")

    def select(self, index: Tensor) -> "CompletionLogps":
        """The completions at `index`. Shape: (n,), int64."""
        tokens = None if self.token_logps is None else self.token_logps.index_select(0, index)
        # `index_select` sums the gradients of a completion that is in several pairs in a fixed order.
        return CompletionLogps(self.sums.index_select(0, index), self.lengths[index], tokens)
