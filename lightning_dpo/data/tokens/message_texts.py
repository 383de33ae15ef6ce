"""The parts of messages that the text of a chat template contains. Templates omit roles and fields they do not know."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from lightning_dpo.data.rows.messages import REASONING, WEIGHT, leaves
from lightning_dpo.data.rows.pairs import Message

_THINK = re.compile(r"</?think>")
KNOWN = {"role", "content", "tool_calls", WEIGHT, *REASONING}
"""Fields of messages whose parts `parts_of` returns, or that are read before the template."""
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
        yield from (("tool_calls", leaf) for name, value in function.items() for leaf in leaves(value))


def missing_parts(messages: Sequence[Message], text: str) -> list[tuple[int, str]]:
    """Index and name of each part of `messages` that is not in `text`.

    A text must occur as often as in all parts together. Otherwise, the same words in another message would hide that it
    is missing. The order is not compared, because some templates write a result before the content of its call.
    """
    parts = [(index, name, value) for index, message in enumerate(messages) for name, value in parts_of(message)]
    missing = [(index, name) for index, name, value in parts if not contains(text, value)]
    texts = [
        (index, name, value.strip())
        for index, name, value in parts
        if isinstance(value, str) and value.strip() and (index, name) not in missing
    ]
    needed = Counter[str]()
    for part in {value for _, _, value in texts}:
        needed[part] = sum(value.count(part) for _, _, value in texts)
    rare = [(index, name) for index, name, value in texts if sum(map(text.count, _forms(value))) < needed[value]]
    return sorted({*missing, *rare})


def contains(text: str, value: Any) -> bool:
    """Whether `text` contains `value`, as text, in JSON or in Python."""
    return any(form in text for form in _forms(value.strip() if isinstance(value, str) else value))


def mentions(template: str, word: str) -> bool:
    """Whether a word occurs in the source of a template."""
    return re.search(rf"\b{re.escape(word)}\b", template) is not None


def _forms(value: Any) -> set[str]:
    """The forms in which templates write a value."""
    if isinstance(value, str):
        return {value, json.dumps(value, ensure_ascii=False)[1:-1], value.replace("'", "\\'")}
    return {json.dumps(value), str(value)}
