"""A preference pair as text or messages: what a data source gives."""

from typing import Any, NotRequired, TypedDict

Row = tuple[str, dict[str, Any] | str]
"""`file:line` and a row of a data source, or the reason why there is none."""

MESSAGE_COLUMNS = ("tools", "chat_template_kwargs")
"""Columns that the chat template reads besides the messages."""

Message = dict[str, Any]
"""`role`, `content` and whatever else the chat template reads, such as `tool_calls`."""


class PreferencePair(TypedDict):
    """One row of a data source.

    A source is a function `(split, path)` that returns a `datasets.Dataset` of such rows, in any of the forms
    that `rows/messages.py` lists; `rows/validation.py` makes them explicit and fills in `where` and `invalid`.
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
