"""Messages of datasets, converted to those that chat templates read: `role`, `content`, `tool_calls` and others."""

from collections.abc import Iterator, Mapping
from typing import Any

from lightning_dpo.data.rows.pairs import Message
from lightning_dpo.data.rows.reasons import InvalidRow, excerpt, found
from lightning_dpo.data.rows.roles import role_of
from lightning_dpo.data.rows.tool_calls import calls_in_text, from_json, tool_calls

Dialogue = list[Message]

MEDIA = frozenset({"image", "images", "image_url", "image_path", "video", "videos", "audio", "audios"})
_TEXT_PARTS = ("text", "input_text", "output_text")
_OF_PART = ("type", "text", "role", "content")
REASONING = ("reasoning_content", "reasoning", "thinking")
WEIGHT = "weight"
# The names of OpenAI, ms-swift and axolotl for whether a message is trained on.
_WEIGHTS = (WEIGHT, "loss", "train", "training")
_CALL = "tool_call"
_MESSAGE = ({"role", "content"}, {"role", "tool_calls"}, {"from", "value"})


def dialogue(messages: Any, name: str = "messages", roles: Mapping[str, str] | None = None) -> Dialogue:
    """Messages with `role` and `content`, without empty fields. A single message and JSON are accepted too.

    Args:
        messages: The messages of a dataset: `{role, content, ...}`, or ShareGPT's `{from, value}`.
        name: Name of the column, for messages of errors.
        roles: The dataset's names of roles; see `role_of`.

    >>> dialogue({"from": "gpt", "value": "Hello."})
    [{'role': 'assistant', 'content': 'Hello.'}]

    Raises:
        InvalidRow: They are not messages.
    """
    messages = [messages] if isinstance(messages, dict) else messages
    if not isinstance(messages, list):
        raise InvalidRow(f"{name} must be text or messages, not {found(messages)}")
    converted: Dialogue = []
    for index, message in enumerate(messages):
        one = _message(message, f"{name}[{index}]", roles)
        # Datasets with a message per call: templates expect all calls of a turn in one message.
        if converted and "tool_calls" in converted[-1] and one.keys() == converted[-1].keys() == {"role", "tool_calls"}:
            converted[-1]["tool_calls"] += one["tool_calls"]
        else:
            converted.append(one)
    return converted


def parsed(text: Any) -> Any:
    """The messages that `text` is the JSON of; None if it is not.

    >>> parsed('[{"role": "user", "content": "Hi"}]')
    [{'role': 'user', 'content': 'Hi'}]
    """
    if not isinstance(text, str) or not text.lstrip().startswith("["):
        return None
    read = from_json(text)
    if not read or not isinstance(read, list):
        return None
    return (
        read if all(isinstance(one, dict) and any(names <= one.keys() for names in _MESSAGE) for one in read) else None
    )


def leaves(value: Any) -> Iterator[Any]:
    """All values within objects and lists, and the names of the objects' fields."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner)
    else:
        yield value


def _message(message: Any, name: str, roles: Mapping[str, str] | None) -> Message:
    if not isinstance(message, dict):
        raise InvalidRow(f"{name} must be a message with role and content, not {found(message)}")
    # Null fields of the message itself, but not of the arguments of a call, where they have a meaning.
    fields = {field: value for field, value in message.items() if value is not None}
    role, content = (
        fields.pop(name, None) if name in fields else fields.pop(other, None)
        for name, other in (("role", "from"), ("content", "value"))
    )
    if role is None:
        raise InvalidRow(f"{name} has no role; its fields are {', '.join(map(str, message)) or 'none'}")
    if not isinstance(role, str):
        raise InvalidRow(f"the role of {name} must be text, not {found(role)}")
    role = role_of(role, roles)
    if media := [field for field in fields if field in MEDIA and fields[field]]:
        raise InvalidRow(f"{name} has {media[0]}: only text is supported")
    if isinstance(content, list):
        content = _joined(content, f"the content of {name}", fields)
    if not isinstance(content, str | None):
        raise InvalidRow(f"the content of {name} must be text, not {found(content)}")
    calls = tool_calls(fields.pop("tool_calls", []), name)
    if legacy := fields.pop("function_call", None):
        calls += tool_calls([{"type": "function", "function": legacy}], name)
    if role == _CALL:
        role, content, calls = "assistant", None, [*calls, *tool_calls(calls_in_text(content, name), name)]
    if calls:
        fields["tool_calls"] = calls
    if content is None and not fields.keys() & {"tool_calls", *REASONING}:
        raise InvalidRow(f"{name} has no content; its fields are {', '.join(map(str, message))}")
    if _is_unweighted(fields, name) and role == "assistant":
        fields[WEIGHT] = 0
    # Role and content first, so that equal messages have equal JSON.
    return {"role": role} | ({} if content is None else {"content": content}) | fields


def _joined(parts: list[Any], name: str, fields: dict[str, Any]) -> str:
    """The text of a content that is split into parts. Their other fields are added to those of the message."""
    texts = []
    for part in parts:
        part = {"text": part} if isinstance(part, str) else part
        kind = part.get("type", "text") if isinstance(part, dict) else None
        if kind not in _TEXT_PARTS or not isinstance(part.get("text"), str):
            raise InvalidRow(f"{name} has a part that is not text ({excerpt(kind or part)}): only text is supported")
        texts.append(part["text"])
        others = {field: value for field, value in part.items() if value is not None and field not in _OF_PART}
        if media := [field for field in others if field in MEDIA]:
            raise InvalidRow(f"{name} has {media[0]}: only text is supported")
        fields |= {field: value for field, value in others.items() if field not in fields}
    return "".join(texts)


def _is_unweighted(fields: dict[str, Any], name: str) -> bool:
    """Whether a field excludes the message from the loss. Removes these fields."""
    values = {field: fields.pop(field) for field in _WEIGHTS if field in fields}
    for field, value in values.items():
        if value not in (0, 1):
            raise InvalidRow(f"{field} of {name} must be 0 or 1, not {found(value)}")
    return 0 in values.values()
