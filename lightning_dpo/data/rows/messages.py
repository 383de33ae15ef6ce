"""Conversion of the forms of pairs in datasets to one: a prompt and two answers, as text or messages."""

import json
from itertools import takewhile
from typing import Any

from lightning_dpo.data.rows.pairs import Message
from lightning_dpo.data.rows.reasons import IDENTICAL_ANSWERS, InvalidRow

# ShareGPT's names of roles, and those of chat templates.
_ROLES = {"human": "user", "gpt": "assistant", "observation": "tool", "function_response": "tool"}

Dialogue = list[Message]


def explicit_pair(prompt: Any, chosen: Any, rejected: Any) -> dict[str, Any]:
    """A pair with a separate prompt and answers without it.

    | prompt | answers | result |
    |---|---|---|
    | text | text | unchanged |
    | none | text | whole texts, split at the start of the first word that differs |
    | messages | text, or messages | the prompt's messages are removed from answers that begin with them |
    | none | messages | whole dialogues, split at the first message that differs |
    | text | messages | the prompt is one of the dialogue's messages (UltraFeedback), or becomes its first |

    A message is `{role, content, ...}` or ShareGPT's `{from, value}`. A single message is accepted instead of a list.

    Raises:
        InvalidRow: The row has none of these forms.
    """
    if isinstance(chosen, str) and isinstance(rejected, str):
        if isinstance(prompt, str):
            return {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        if prompt is None:
            return _split_texts(chosen, rejected)
        chosen, rejected = ([{"role": "assistant", "content": text}] for text in (chosen, rejected))
    chosen, rejected = dialogue(chosen), dialogue(rejected)
    if prompt is None:
        if chosen == rejected:
            raise InvalidRow(IDENTICAL_ANSWERS)
        prompt = _shared(chosen, rejected)
    elif isinstance(prompt, str):
        prompt = _around(prompt, chosen, rejected)
    else:
        prompt = dialogue(prompt)
    whole = [answer[: len(prompt)] == prompt for answer in (chosen, rejected)]
    if all(whole):
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    return _checked(prompt, chosen, rejected)


def dialogue(messages: Any) -> Dialogue:
    """Messages with `role` and `content`, without empty fields.

    >>> dialogue({"from": "gpt", "value": "Hello."})
    [{'role': 'assistant', 'content': 'Hello.'}]

    Raises:
        InvalidRow: They are not messages.
    """
    if isinstance(messages, dict):
        messages = [messages]
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise InvalidRow(f"prompt and answers must both be text or both be messages, not {_kind(messages)}")
    return [_message(message) for message in messages]


def without_null(value: Any) -> Any:
    """`value` without null fields. Arrow gives every row the fields of all rows.

    >>> without_null({"a": {"b": None, "c": [1]}, "d": None})
    {'a': {'c': [1]}}
    """
    if isinstance(value, dict):
        return {name: without_null(inner) for name, inner in value.items() if inner is not None}
    return [without_null(inner) for inner in value] if isinstance(value, list) else value


def as_chat(pair: dict[str, Any], system: str | None = None) -> dict[str, Any]:
    """A pair of texts as messages. `system` becomes the first message, unless there is a system message already."""
    prompt, chosen, rejected = pair["prompt"], pair["chosen"], pair["rejected"]
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
        chosen, rejected = ([{"role": "assistant", "content": text}] for text in (chosen, rejected))
    if system and prompt[0]["role"] != "system":
        prompt = [{"role": "system", "content": system}, *prompt]
    return pair | {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _message(message: dict[str, Any]) -> Message:
    message = without_null(message)
    if "from" in message:
        message = _from_sharegpt(message)
    role, content = message.pop("role", None), message.pop("content", None)
    # Multimodal datasets split the content into parts. Only text parts are supported.
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part["text"]) for part in content)
    if not isinstance(role, str):
        raise InvalidRow("a message has no role")
    if not isinstance(content, str | None):
        raise InvalidRow(f"the content of a message must be text, not {_kind(content)}")
    # Role and content first, so that equal messages have equal JSON.
    return {"role": role} | ({} if content is None else {"content": content}) | message


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _from_sharegpt(message: dict[str, Any]) -> Message:
    role, value = message.pop("from"), message.pop("value", None)
    if role != "function_call":
        return {"role": _ROLES.get(role, role), "content": value, **message}
    try:
        return {"role": "assistant", "tool_calls": [{"type": "function", "function": json.loads(value)}], **message}
    except (TypeError, ValueError) as error:
        raise InvalidRow("the value of a function_call must be JSON") from error


def _split_texts(chosen: str, rejected: str) -> dict[str, Any]:
    """Split where the texts start to differ, but not within a word, before a space, and with both answers non-empty."""
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False)))
    same = max(0, min(same, len(chosen) - 1, len(rejected) - 1))
    while same and chosen[same - 1].isalnum() and (chosen[same].isalnum() or rejected[same].isalnum()):
        same -= 1
    same -= same > 0 and chosen[same - 1] == " "
    return {"prompt": chosen[:same], "chosen": chosen[same:], "rejected": rejected[same:]}


def _shared(chosen: Dialogue, rejected: Dialogue) -> Dialogue:
    return [ours for ours, _ in takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))]


def _around(question: str, chosen: Dialogue, rejected: Dialogue) -> Dialogue:
    """The shared messages, of which `question` must be one. If answers have no user message, only `question`."""
    shared = _shared(chosen, rejected)
    if any(message["role"] == "user" for message in (*chosen[:2], *rejected[:2])):
        if not any(message.get("content", "").strip() == question.strip() for message in shared):
            raise InvalidRow("the prompt is not one of the messages that both dialogues share")
        return shared
    return [{"role": "user", "content": question}]


def _checked(prompt: Dialogue, chosen: Dialogue, rejected: Dialogue) -> dict[str, Any]:
    if not prompt:
        raise InvalidRow("the two dialogues have no message in common, so the prompt is missing")
    for answer in (chosen, rejected):
        if not answer or answer[-1]["role"] != "assistant":
            raise InvalidRow("an answer does not end with a message of the assistant")
        if answer[0]["role"] != "assistant":
            raise InvalidRow("an answer does not begin with a message of the assistant")
        if not str(answer[-1].get("content", "")).strip() and not answer[-1].get("tool_calls"):
            raise InvalidRow("an answer is empty")
    if prompt[-1]["role"] == "assistant":
        raise InvalidRow("the prompt ends with a message of the assistant")
    if not any(str(message.get("content", "")).strip() for message in prompt):
        raise InvalidRow("the prompt is empty")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}
