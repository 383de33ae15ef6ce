"""A preference pair as text or messages: what a source makes of a row."""

from collections.abc import Callable, Iterable
from typing import Any, NotRequired, TypedDict

Row = tuple[str, dict[str, Any] | str]
"""`file:line` and the row that was read there, or the reason why it cannot be read."""

MESSAGE_COLUMNS = ("tools", "chat_template_kwargs")
"""Columns that the chat template reads besides the messages."""

NUMBERS = {"weight": 1.0, "offset": 0.0, "label_noise": 0.0}
"""Numeric columns of a pair and the value that has no effect."""

MASKS = ("chosen_mask", "rejected_mask")
"""Columns that select the scored tokens of an answer."""

Message = dict[str, Any]
"""`role`, `content` and other fields that the chat template reads, such as `tool_calls`."""


class PreferencePair(TypedDict):
    """One preference pair, in any of the forms that `rows/pair_forms.py` lists."""

    prompt: NotRequired[str | list[Message] | None]
    """Text up to and including the words that introduce an answer, or messages. Without it, the prompt is part of both
    answers."""
    chosen: str | list[Message]
    """The preferred answer. Text includes its leading space, if there is one."""
    rejected: str | list[Message]
    """The other answer."""
    tools: NotRequired[list[dict[str, Any]] | str]
    """Tools for the chat template, as a list or as JSON."""
    chat_template_kwargs: NotRequired[dict[str, Any] | str]
    """Further arguments of the chat template, as a dict or as JSON."""
    weight: NotRequired[float]
    """Weight of the pair's loss. Default: 1."""
    offset: NotRequired[float]
    """Target reward margin. Default: 0."""
    label_noise: NotRequired[float]
    """Probability that the rejected answer is the better one; ½ for a tie. Default: 0."""
    chosen_mask: NotRequired[list[bool] | list[int] | None]
    """Which tokens of the preferred answer are scored, its end token included. Default: all, or with messages those of
    the scored turns."""
    rejected_mask: NotRequired[list[bool] | list[int] | None]
    """The same for the other answer."""
    source: NotRequired[str | None]
    """Name of a subset. Validation metrics are logged for each name."""


ToPair = Callable[[dict[str, Any]], PreferencePair | Iterable[PreferencePair]]
"""A source of pairs: a function that converts a row to a pair or a list of pairs. An empty list skips the row.

It raises `InvalidRow("reason")` for a row that is not valid. Options are keyword arguments, set with
`functools.partial`.
"""

Rows = Callable[[str], Iterable[dict[str, Any]] | None]
"""A function of the split, `train` or `validation`, that returns its rows; None if it does not exist."""
