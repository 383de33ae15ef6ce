"""What data and module share: pairs as tokens, the batch that a layout makes of them, and completions' log-probs."""

import inspect
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, dataclass_transform

import torch
from torch import Tensor

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class TokenizedPair:
    """A pair as token ids.

    Every token of a completion is scored, the one that ends it included, unless `chosen_scored` or `rejected_scored`
    gives a flag for each token: the later questions of a dialogue are not part of its answers.
    """

    index: int
    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    chosen_scored: list[bool] | None = None
    rejected_scored: list[bool] | None = None
    weight: float = 1.0
    offset: float = 0.0
    source: int = 0


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """The pairs of one forward pass, and what the loss must know of the optimizer step that they belong to."""

    pairs: Sequence[TokenizedPair]
    counted: Sequence[bool]
    """False for a pair that only fills up a device and counts nowhere."""
    step_pairs: int
    """Pairs of the whole step that count."""
    step_chosen_tokens: int
    """Scored tokens of their chosen completions."""


class Stretch(NamedTuple):
    """Consecutive tokens of a stream. Each attends to those before it in its stretch, and to all of a prefix."""

    length: int
    """Tokens."""
    prefix: int
    """Tokens at the beginning of the latest stretch without a prefix, to which these attend as well: the prompt of a
    further completion. 0 for a prompt and its first completion."""


class Segments:
    """The stretches of a stream, in its order; together they are all of it.

    A plain class, because FSDP copies dataclasses and casts what they hold on their way into every layer.

    Attributes:
        stretches: Prompt and first completion of a group, then each further completion, then the next group.
    """

    def __init__(self, stretches: Iterable[Stretch]) -> None:
        self.stretches = tuple(stretches)
        self._made: dict[Hashable, Any] = {}

    def made(self, what: Hashable, make: Callable[[], _T]) -> _T:
        """What `make` returns, made once: masks and indices are the same in every layer."""
        if what not in self._made:
            self._made[what] = make()
        return self._made[what]

    def __getstate__(self) -> tuple[Stretch, ...]:
        return self.stretches

    def __setstate__(self, stretches: tuple[Stretch, ...]) -> None:
        self.stretches, self._made = stretches, {}

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Segments":
        """Itself: lengths are needed on the CPU, and what is made of them is made on the device that needs it."""
        return self

    def pin_memory(self) -> "Segments":
        """Itself: there is no memory to pin."""
        return self


@dataclass_transform(kw_only_default=True, frozen_default=True)
class _Immutable:
    """Attributes that are set once, by name: one for each annotation of a subclass. Type checkers read it likewise."""

    def __init_subclass__(cls) -> None:
        keyword = inspect.Parameter.KEYWORD_ONLY
        hints = {name: hint for base in reversed(cls.__mro__) for name, hint in inspect.get_annotations(base).items()}
        parameters = [inspect.Parameter(name, keyword, annotation=hint) for name, hint in hints.items()]
        cls.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by `help`

    def __init__(self, **fields: Any) -> None:
        inspect.signature(type(self)).bind(**fields)  # raises TypeError for a missing or an unknown name
        vars(self).update(fields)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a {type(self).__name__} cannot be changed: make a new one with another {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a {type(self).__name__} cannot be changed: {name} stays")


class PreferenceBatch(_Immutable):
    """Completions, laid out as a layout chose, and preference pairs over them. Immutable.

    Not a dataclass, because Lightning's precision plugins refuse frozen dataclasses and cast the floating-point tensors
    of dictionaries, named tuples and other dataclasses to the compute dtype; `weight` must keep its own.

    Attributes:
        input_ids: Token ids. Shape: (rows, length), int64.
        position_ids: Position of every token, counted from its prompt's start. Shape: (rows, length), int64. None in
            the padded layout, where the model counts them itself.
        segments: Which stretch of the stream attends to what. None in the padded layout, where rows are independent,
            pads are on the right, and causal attention never looks right.
        tokens: Positions of `input_ids` that hold no pad. Shape: (), int64.
        score_index: Flat position in `input_ids` whose hidden state predicts a scored token. Shape: (scored,), int64.
        target_ids: That token. Shape: (scored,), int64.
        completion_index: The completion that token belongs to. Shape: (scored,), int64.
        completion_lengths: Scored tokens of each completion. Shape: (completions,), float32.
        chosen: The preferred completion of each pair. Shape: (pairs,), int64.
        rejected: The other one; empty if only chosen completions were laid out. Shape: (pairs,) or (0,), int64.
        pair_index: Row of the pair in its data set, for messages. Shape: (pairs,), int64.
        weight: Factor of the pair's loss; 0 for a pair that does not count. Shape: (pairs,), float32.
        counted: False for a pair that only fills up a device. Shape: (pairs,), bool.
        offset: By how much the reward margin should exceed zero, in units of reward (ODPO). Shape: (pairs,), float32.
        source: Index of the data source that the pair came from. Shape: (pairs,), int64.
        step_pairs: Pairs in the whole optimizer step, on all devices and micro-batches. Shape: (), float32.
        step_chosen_tokens: Scored tokens of their chosen completions. Shape: (), float32.
    """

    input_ids: Tensor
    position_ids: Tensor | None
    segments: Segments | None
    tokens: Tensor
    score_index: Tensor
    target_ids: Tensor
    completion_index: Tensor
    completion_lengths: Tensor
    chosen: Tensor
    rejected: Tensor
    pair_index: Tensor
    weight: Tensor
    counted: Tensor
    offset: Tensor
    source: Tensor
    step_pairs: Tensor
    step_chosen_tokens: Tensor

    def __repr__(self) -> str:
        layout = "padded" if self.segments is None else "shared"
        shape = tuple(self.input_ids.shape)
        return (
            f"PreferenceBatch({len(self.chosen)} pairs, {len(self.completion_lengths)} completions, {layout}: {shape})"
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "PreferenceBatch":
        """The same batch on `device`; dtypes stay."""
        return self._map(lambda value: value.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "PreferenceBatch":
        """The same batch in page-locked memory."""
        return self._map(lambda value: value.pin_memory())

    def _map(self, function: Callable[[Any], Any]) -> "PreferenceBatch":
        changed = {name: None if value is None else function(value) for name, value in vars(self).items()}
        return PreferenceBatch(**changed)  # type: ignore[arg-type]  # each value has the type that it had


@dataclass(frozen=True, slots=True)
class CompletionLogps:
    """Log-probabilities of completions, given their prompts."""

    sums: Tensor
    """Sum over the scored tokens, in nats. Shape: (completions,), float32 in any precision below."""
    lengths: Tensor
    """Scored tokens. Shape: (completions,), float32."""
