"""The forms in which data sets write a pair, made into one: an explicit prompt and two answers, as text or messages."""

import json
from itertools import takewhile
from typing import Any

from lightning_dpo.data.rows.pairs import Message
from lightning_dpo.data.rows.reasons import IDENTICAL_ANSWERS, InvalidRow

# ShareGPT's names for the roles that chat templates know.
_ROLES = {"human": "user", "gpt": "assistant", "observation": "tool", "function_response": "tool"}

Dialogue = list[Message]


def explicit_pair(prompt: Any, chosen: Any, rejected: Any) -> dict[str, Any]:
    """A pair with the prompt apart and the answers without it, whichever way the row has them.

    | prompt | answers | form |
    |---|---|---|
    | text | text | taken as they are |
    | none | text | whole texts; they part where they differ, at the start of a word |
    | messages | text, or messages | answers that begin with the prompt's messages lose them |
    | none | messages | whole dialogues; they part at the first message that differs |
    | text | messages | the question is one of the dialogue's messages (UltraFeedback), or becomes its first |

    A message is `{role, content, ...}` or ShareGPT's `{from, value}`; one message may stand for a list of one.

    Raises:
        InvalidRow: It is none of these.
    """
    if isinstance(chosen, str) and isinstance(rejected, str):
        if isinstance(prompt, str):
            return {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        if prompt is None:
            return _parted_texts(chosen, rejected)
        chosen, rejected = ([{"role": "assistant", "content": text}] for text in (chosen, rejected))
    chosen, rejected = dialogue(chosen), dialogue(rejected)
    if prompt is None:
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
    """Messages with `role` and `content`, empty fields left out.

    >>> dialogue({"from": "gpt", "value": "Hello."})
    [{'role': 'assistant', 'content': 'Hello.'}]

    Raises:
        InvalidRow: They are no messages.
    """
    if isinstance(messages, dict):
        messages = [messages]
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise InvalidRow(f"prompt and answers must both be text or both be messages, not {_kind(messages)}")
    return [_message(message) for message in messages]


def without_null(value: Any) -> Any:
    """`value` without the fields that are null: Arrow gives every row the fields of all others.

    >>> without_null({"a": {"b": None, "c": [1]}, "d": None})
    {'a': {'c': [1]}}
    """
    if isinstance(value, dict):
        return {name: without_null(inner) for name, inner in value.items() if inner is not None}
    return [without_null(inner) for inner in value] if isinstance(value, list) else value


def as_chat(pair: dict[str, Any], system: str | None = None) -> dict[str, Any]:
    """A pair of texts as one question and its answers; `system` is put before the first message."""
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
    # Parts of a message, as multimodal data sets have them: those of text are what a language model can read.
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part["text"]) for part in content)
    if not isinstance(role, str):
        raise InvalidRow("a message has no role")
    if not isinstance(content, str | None):
        raise InvalidRow(f"the content of a message must be text, not {_kind(content)}")
    # Role and content first, so that equal messages are equal as JSON.
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


def _parted_texts(chosen: str, rejected: str) -> dict[str, Any]:
    """Cut where the texts begin to differ, but within no word, before a space, and leaving something of each."""
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False)))
    same = max(0, min(same, len(chosen) - 1, len(rejected) - 1))
    while same and chosen[same - 1].isalnum() and (chosen[same].isalnum() or rejected[same].isalnum()):
        same -= 1
    same -= same > 0 and chosen[same - 1] == " "
    return {"prompt": chosen[:same], "chosen": chosen[same:], "rejected": rejected[same:]}


def _shared(chosen: Dialogue, rejected: Dialogue) -> Dialogue:
    return [ours for ours, _ in takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))]


def _around(question: str, chosen: Dialogue, rejected: Dialogue) -> Dialogue:
    """The messages of which `question` is one; where the answers are answers alone, it is the only one."""
    shared = _shared(chosen, rejected)
    if any(message["role"] == "user" for message in (*chosen[:2], *rejected[:2])):
        if not any(message.get("content", "").strip() == question.strip() for message in shared):
            raise InvalidRow("the prompt is not one of the messages that both dialogues share")
        return shared
    return [{"role": "user", "content": question}]


def _checked(prompt: Dialogue, chosen: Dialogue, rejected: Dialogue) -> dict[str, Any]:
    if not prompt:
        raise InvalidRow("the two dialogues have no message in common, so there is no prompt")
    if chosen == rejected:
        raise InvalidRow(IDENTICAL_ANSWERS)
    for answer in (chosen, rejected):
        if not answer or answer[-1]["role"] != "assistant":
            raise InvalidRow("an answer does not end with a message of the assistant")
        if answer[0]["role"] != "assistant":
            raise InvalidRow("an answer begins with a message of another role than the assistant")
        if not str(answer[-1].get("content", "")).strip() and not answer[-1].get("tool_calls"):
            raise InvalidRow("an answer is empty")
    if prompt[-1]["role"] == "assistant":
        raise InvalidRow("the prompt ends with a message of the assistant")
    if not any(str(message.get("content", "")).strip() for message in prompt):
        raise InvalidRow("the prompt is empty")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}
