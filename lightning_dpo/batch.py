"""What a collator hands to the module: completions of prompts, and pairs as indices into them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_dpo.segments import Segments


class PreferenceBatch:
    """Completions, laid out as a layout chose, and preference pairs over them. Immutable.

    A plain class with slots, because Lightning's precision plugins refuse frozen dataclasses and cast the floating
    tensors of dictionaries, named tuples and other dataclasses to the compute dtype; `weight` must keep its own.

    Attributes:
        input_ids: Token ids, int64. Shape: (rows, length).
        position_ids: Position of every token, counted from its prompt's start. Shape: (rows, length).
        segments: Which stretch of the stream attends to what, in the shared layout; None in the padded layout, where
            rows are independent, pads stand on the right, and causal attention never looks right.
        tokens: Positions of `input_ids` that hold no pad. Shape: (), int64.
        score_index: Flat position in `input_ids` whose hidden state predicts a scored token. Shape: (scored,).
        target_ids: That token. Shape: (scored,).
        completion_index: The completion that token belongs to. Shape: (scored,).
        prompt_index: The prompt that a completion answers. Shape: (completions,).
        completion_key: sha256 of prompt ids, completion ids and scored positions, as four int64.
            Shape: (completions, 4).
        chosen: The preferred completion of each pair. Shape: (pairs,).
        rejected: The other one; empty where only chosen completions were laid out. Shape: (pairs,) or (0,).
        pair_index: Row of the pair in its data set, for messages. Shape: (pairs,).
        weight: Factor of the pair's loss; 0 for a pair that does not count. Shape: (pairs,), float32.
        counted: False for a pair that only fills up a device. Shape: (pairs,), bool.
        offset: By how much the reward margin should exceed zero, in units of reward (ODPO). Shape: (pairs,), float32.
        source: Number of the data source that the pair came from. Shape: (pairs,).
        step_pairs: Pairs in the whole optimizer step, on all devices and micro-batches. Shape: (), float32.
        step_chosen_tokens: Scored tokens of their chosen completions. Shape: (), float32.
    """

    __slots__ = (
        "chosen",
        "completion_index",
        "completion_key",
        "counted",
        "input_ids",
        "offset",
        "pair_index",
        "position_ids",
        "prompt_index",
        "rejected",
        "score_index",
        "segments",
        "source",
        "step_chosen_tokens",
        "step_pairs",
        "target_ids",
        "tokens",
        "weight",
    )

    def __init__(self, **fields: Tensor | Segments | None) -> None:
        if set(fields) != set(self.__slots__):
            raise TypeError(f"a PreferenceBatch takes exactly these fields: {', '.join(self.__slots__)}")
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a PreferenceBatch cannot be changed: make a new one with another {name}")

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "PreferenceBatch":
        """The same batch on `device`; dtypes stay."""
        return self._map(lambda value: value.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "PreferenceBatch":
        """The same batch in page-locked memory."""
        return self._map(lambda value: value.pin_memory())

    def _map(self, function: Callable[[Any], Any]) -> "PreferenceBatch":
        values = {name: getattr(self, name) for name in self.__slots__}
        return PreferenceBatch(**{name: None if value is None else function(value) for name, value in values.items()})

    def __getstate__(self) -> dict[str, Tensor | Segments | None]:
        return {name: getattr(self, name) for name in self.__slots__}

    def __setstate__(self, state: dict[str, Tensor | Segments | None]) -> None:
        self.__init__(**state)
