"""The words that all of `data/` speaks: a pair as text, a pair as tokens, and a micro-batch of pairs."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import numpy as np


class PreferencePair(TypedDict):
    """One row of a data source.

    A source is a function `load_pairs(split, path)` that returns a `datasets.Dataset` of such rows. `where` and
    `invalid` are for sources that read files: `data/validation.py` fills them in.
    """

    prompt: str
    """What both answers follow, up to and including whatever introduces an answer."""
    chosen: str
    """The preferred answer, with its leading space where it has one."""
    rejected: str
    """The other answer."""
    weight: NotRequired[float]
    """Factor of the pair's loss; 1 where there is no such column."""
    offset: NotRequired[float]
    """By how much the reward margin should exceed zero; 0 where there is no such column."""
    source: NotRequired[int]
    """Number of the data source; 0 where there is no such column."""
    where: NotRequired[str]
    """`file:line`, for messages."""
    invalid: NotRequired[str]
    """Why the row cannot be used, or an empty string."""


@dataclass(frozen=True, slots=True)
class TokenizedPair:
    """A pair as token ids. Every token of a completion is scored, the end of sequence included."""

    index: int
    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
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


def completion_key(prompt_ids: list[int], completion_ids: list[int]) -> list[int]:
    """What identifies a completion's log-prob: sha256 of its tokens and of where the scored ones begin, as 4 int64.

    >>> completion_key([1, 2], [3]) == completion_key([1, 2], [3])
    True
    >>> completion_key([1, 2], [3]) == completion_key([1], [2, 3])
    False
    """
    tokens = np.array([len(prompt_ids), *prompt_ids, *completion_ids], dtype="<i8")
    return np.frombuffer(hashlib.sha256(tokens.tobytes()).digest(), dtype="<i8").tolist()
