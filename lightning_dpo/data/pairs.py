"""The words that all of `data/` speaks: a pair as text, a pair as tokens, and a micro-batch of pairs."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

import numpy as np

Message = dict[str, Any]
"""`role`, `content` and whatever else the chat template reads, such as `tool_calls`."""


class PreferencePair(TypedDict):
    """One row of a data source.

    A source is a function `load_pairs(split, path)` that returns a `datasets.Dataset` of such rows, in any of the forms
    that `data/messages.py` lists; `data/validation.py` makes them explicit and fills in `where` and `invalid`.
    """

    prompt: NotRequired[str | list[Message]]
    """What both answers follow: text up to and including whatever introduces an answer, or messages."""
    chosen: str | list[Message]
    """The preferred answer; text with its leading space where it has one."""
    rejected: str | list[Message]
    """The other answer."""
    tools: NotRequired[list[dict[str, Any]] | str]
    """What the chat template shows as tools, or that as JSON."""
    chat_template_kwargs: NotRequired[dict[str, Any] | str]
    """Further arguments of the chat template, or those as JSON."""
    weight: NotRequired[float]
    """Factor of the pair's loss; 1 where there is no such column."""
    offset: NotRequired[float]
    """By how much the reward margin should exceed zero; 0 where there is no such column."""
    source: NotRequired[str]
    """Name of the data source, by which metrics are kept apart; empty where there is no such column."""
    where: NotRequired[str]
    """`file:line`, for messages."""
    invalid: NotRequired[str]
    """Why the row cannot be used, or an empty string."""


@dataclass(frozen=True, slots=True)
class TokenizedPair:
    """A pair as token ids.

    Every token of a completion is scored, whatever ends it included, unless `chosen_scored` or `rejected_scored` says
    of each whether it is: a dialogue's later questions are no part of its answers.
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


def completion_key(prompt_ids: list[int], completion_ids: list[int], scored: list[bool] | None = None) -> list[int]:
    """What identifies a completion's log-prob: sha256 of its tokens and of which of them are scored, as 4 int64.

    >>> completion_key([1, 2], [3]) == completion_key([1, 2], [3], [True])
    True
    >>> completion_key([1, 2], [3]) == completion_key([1], [2, 3])
    False
    """
    scored = [True] * len(completion_ids) if scored is None else scored
    tokens = np.array([len(prompt_ids), len(completion_ids), *prompt_ids, *completion_ids, *scored], dtype="<i8")
    return np.frombuffer(hashlib.sha256(tokens.tobytes()).digest(), dtype="<i8").tolist()
