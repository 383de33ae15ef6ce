"""The parts of messages that the text of a chat template contains. Templates omit roles and fields they do not know."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from lightning_dpo.data.rows.messages import REASONING, WEIGHT, leaves
from lightning_dpo.data.rows.pairs import Message

_THINK = re.compile(r"</?think>")
_KNOWN = {"role", "content", "tool_calls", WEIGHT, *REASONING}
REASONING_PART = "reasoning"


def parts_of(message: Message) -> Iterator[tuple[str, Any]]:
    """Name and value of each part of a message that a template must write: text, reasoning, calls of tools.

    >>> list(parts_of({"role": "assistant", "content": "<think>Two.</think>2"}))
    [('reasoning', 'Two.'), ('content', '2')]
    """
    # Templates change the whitespace around reasoning, and some write their own tags.
    *thoughts, content = _THINK.split(str(message.get("content", "")))
    yield from ((REASONING_PART, thought) for thought in thoughts if thought.strip())
    yield "content", content
    yield from ((REASONING_PART, message[name]) for name in REASONING if name in message)
    for call in message.get("tool_calls", []):
        function = call.get("function", call)
        yield "tool_calls", function.get("name", "")
        yield from (("tool_calls", leaf) for leaf in leaves(function.get("arguments", "")))


def missing_parts(messages: Sequence[Message], text: str) -> Iterator[tuple[int, str]]:
    """Index and name of each part of `messages` that is not in `text`, in the order of the messages.

    The order matters, because otherwise the same words in another message would hide that a message is missing. System
    messages can be anywhere: some templates write them into the first or the last question.
    """
    start = 0
    for index, message in enumerate(messages):
        anywhere = message["role"] in ("system", "developer")
        end = start
        for name, value in parts_of(message):
            found = _find(text, value, 0 if anywhere else start)
            if found is None:
                yield index, name
            elif name == "content" and not anywhere:
                end = found  # not after reasoning, which may be omitted here and occur in a later message
        start = end


def contains(text: str, value: Any) -> bool:
    """Whether `text` contains `value`."""
    return _find(text, value, 0) is not None


def unread_fields(messages: Sequence[Message], template: str) -> set[str]:
    """Fields of messages whose name does not occur in the source of a template, so that it cannot read them."""
    fields = {field for message in messages for field in message} - _KNOWN
    return {field for field in fields if not names(template, field)}


def names(template: str, name: str) -> bool:
    """Whether a word occurs in the source of a template."""
    return re.search(rf"\b{re.escape(name)}\b", template) is not None


def _find(text: str, value: Any, start: int) -> int | None:
    """The end of the first occurrence of `value` after `start`, as text or as in JSON; None if there is none."""
    if isinstance(value, str):
        plain = value.strip()
        forms = [plain] if plain in text else [plain, json.dumps(plain, ensure_ascii=False)[1:-1]]
    else:  # templates write values of Python or of JSON
        forms = [json.dumps(value), str(value)]
    ends = [at + len(form) for form in forms if (at := text.find(form, start)) >= 0]
    return min(ends) if ends else None
