"""The forms of pairs in datasets, converted to one: a prompt and two answers, as text or as messages."""

import unicodedata
from collections.abc import Mapping
from itertools import takewhile
from typing import Any

from lightning_dpo.data.prefix import common_prefix
from lightning_dpo.data.rows.messages import REASONING, Dialogue, dialogue, parsed
from lightning_dpo.data.rows.pairs import Message
from lightning_dpo.data.rows.reasons import IDENTICAL_ANSWERS, InvalidRow, excerpt, found
from lightning_dpo.data.rows.roles import role_of

_NAMES = ("prompt", "chosen", "rejected")


def explicit_pair(
    prompt: Any,
    chosen: Any,
    rejected: Any,
    names: tuple[str, str, str] = _NAMES,
    roles: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """A pair with a separate prompt and answers without it.

    | prompt | answers | result |
    |---|---|---|
    | text | text | unchanged |
    | none | text | whole texts, split at the start of the first word that differs |
    | messages | text, or messages | the prompt's messages are removed from answers that begin with them |
    | none | messages | whole dialogues, split at the first message that differs |
    | text | messages | the prompt is one of the dialogue's messages (UltraFeedback), or becomes its first |

    A message is `{role, content, ...}` or ShareGPT's `{from, value}`. A single message is accepted instead of a list,
    and so are messages as JSON.

    Args:
        prompt: The prompt, or None.
        chosen: The preferred answer.
        rejected: The other answer.
        names: The columns of the three, for messages of errors.
        roles: The dataset's names of roles; see `role_of`.

    Raises:
        InvalidRow: The row has none of these forms.
    """
    prompt, chosen, rejected = _read(prompt, chosen, rejected, names)
    if prompt is not None and not isinstance(prompt, str):
        prompt = dialogue(prompt, names[0], roles)
        # Text is an answer to messages. Beside a whole dialogue, it would not be clear what it answers.
        chosen, rejected = (_as_answer(side) for side in (chosen, rejected))
    elif isinstance(chosen, str) and isinstance(rejected, str):
        whole = prompt is None
        return _split_texts(chosen, rejected) if whole else {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    for name, side, other in ((names[1], chosen, rejected), (names[2], rejected, chosen)):
        if isinstance(side, str) and isinstance(other, list | dict):
            raise InvalidRow(f"{name} must be messages, as the other answer is, not {found(side)}")
    chosen, rejected = dialogue(chosen, names[1], roles), dialogue(rejected, names[2], roles)
    if prompt is None:
        if chosen == rejected:
            raise InvalidRow(IDENTICAL_ANSWERS)
        prompt = _shared(chosen, rejected)
        if not any(message["role"] == "user" for message in prompt):
            raise InvalidRow(
                f"{names[1]} and {names[2]} have no common message of the user (the prompt); they begin with "
                f"{excerpt(chosen[:1])} and {excerpt(rejected[:1])}; if a column has the prompt, set data.source.prompt"
            )
    elif isinstance(prompt, str):
        prompt = _around(prompt, chosen, rejected)
    chosen, rejected = (_without(prompt, *side) for side in zip((chosen, rejected), names[1:], strict=True))
    _check(prompt, names[0])
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def as_chat(pair: dict[str, Any], system: str | None = None) -> dict[str, Any]:
    """A pair as messages. `system` becomes the first message.

    Raises:
        InvalidRow: There is another system message already.
    """
    prompt, chosen, rejected = pair["prompt"], pair["chosen"], pair["rejected"]
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
        chosen, rejected = ([{"role": "assistant", "content": text}] for text in (chosen, rejected))
    first = prompt[0]
    if system and first["role"] == "system" and str(first.get("content", "")).strip() != system.strip():
        raise InvalidRow(
            "the row has a system message in the prompt, and another one in the column of data.source.system"
        )
    if system and first["role"] != "system":
        prompt = [{"role": "system", "content": system}, *prompt]
    return pair | {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _read(prompt: Any, chosen: Any, rejected: Any, names: tuple[str, str, str]) -> tuple[Any, Any, Any]:
    """The three, with messages in place of their JSON.

    An answer can be such JSON as well, as text. It is read as messages only if both answers are, and if the prompt is
    messages or part of the answers.
    """
    prompt = parsed(prompt) or prompt
    messages = [parsed(side) for side in (chosen, rejected)]
    whole = all(side and role_of(str(side[0].get("role", side[0].get("from")))) != "assistant" for side in messages)
    if all(messages) and (whole or not isinstance(prompt, str)):
        return prompt, *messages
    for name, side in zip(names, (prompt, chosen, rejected), strict=True):
        # Only of a dataset that Python wrote is the prompt, or are both answers, such text.
        if isinstance(side, str) and side.startswith("[{'") and "'role': 'user'" in side:
            raise InvalidRow(f"{name} is a list of messages as a Python repr: write it with json.dumps")
    return prompt, chosen, rejected


def _as_answer(side: Any) -> Any:
    return {"role": "assistant", "content": side} if isinstance(side, str) else side


def _split_texts(chosen: str, rejected: str) -> dict[str, Any]:
    """Split where the texts start to differ, but not within a word, before a space, and with both answers non-empty."""
    same = max(0, min(common_prefix(chosen, rejected), len(chosen) - 1, len(rejected) - 1))
    while same and any(_is_one_word(text[same - 1], text[same]) for text in (chosen, rejected)):
        same -= 1
    same -= same > 0 and chosen[same - 1] == " "
    return {"prompt": chosen[:same], "chosen": chosen[same:], "rejected": rejected[same:]}


def _is_one_word(before: str, after: str) -> bool:
    """Whether two characters are in one word or one symbol, such as a letter and its vowel sign."""
    first, second = unicodedata.category(before), unicodedata.category(after)
    # Marks, skin tones of emoji (Sk) and joiners (Cf); in ASCII, Sk are the accents ^ and `, which are used as quotes.
    if second[0] == "M" or (second in ("Sk", "Cf") and not after.isascii()) or first == "Cf":
        return True
    return (before.isalnum() or first[0] == "M") and after.isalnum()


def _essence(message: Message) -> dict[str, Any]:
    """What two messages must have in common to be the same: not their ids, scores or surrounding whitespace."""
    calls = [call.get("function", call) for call in message.get("tool_calls", [])]
    texts = {name: str(message.get(name, "")).strip() for name in ("content", *REASONING)}
    return {"role": message["role"], "calls": [(call.get("name"), call.get("arguments")) for call in calls]} | texts


def _shared(chosen: Dialogue, rejected: Dialogue) -> Dialogue:
    pairs = zip(chosen, rejected, strict=False)
    return [ours for ours, _ in takewhile(lambda pair: _essence(pair[0]) == _essence(pair[1]), pairs)]


def _around(question: str, chosen: Dialogue, rejected: Dialogue) -> Dialogue:
    """The shared messages, of which `question` must be one. If answers have no user message, only `question`."""
    shared = _shared(chosen, rejected)
    if any(message["role"] == "user" for message in (*chosen[:2], *rejected[:2])):
        if not any(str(message.get("content", "")).strip() == question.strip() for message in shared):
            raise InvalidRow(
                f"the prompt ({excerpt(question)}) is not one of the messages that both dialogues share "
                f"({excerpt([message.get('content', '') for message in shared])})"
            )
        return shared
    return [{"role": "user", "content": question}]


def _without(prompt: Dialogue, answer: Dialogue, name: str) -> Dialogue:
    """The messages of an answer after those of the prompt, with which it may begin."""
    same = len(_shared(prompt, answer))
    if same == len(prompt):
        answer = answer[same:]
    elif answer and answer[0]["role"] != "assistant":
        # A whole dialogue, whose start is not the prompt.
        raise InvalidRow(
            f"{name} begins with other messages than the prompt: message {same} is {excerpt(answer[same])} and "
            f"{excerpt(prompt[same])}"
            if same < len(answer)
            else f"{name} has no answer: its messages are the start of the prompt"
        )
    if not answer or answer[-1]["role"] != "assistant":
        last = f"it ends with the role {answer[-1]['role']!r}" if answer else "nothing follows the prompt"
        raise InvalidRow(f"{name} must end with a message of the assistant; {last}")
    if answer[0]["role"] != "assistant":
        raise InvalidRow(
            f"the answer {name} must begin with a message of the assistant, not of the role {answer[0]['role']!r}"
        )
    if not any(str(answer[-1].get(field, "")).strip() for field in ("content", *REASONING)) and not answer[-1].get(
        "tool_calls"
    ):
        raise InvalidRow("an answer is empty")
    return answer


def _check(prompt: Dialogue, name: str) -> None:
    if not any(str(message.get("content", "")).strip() for message in prompt):
        raise InvalidRow("the prompt is empty")
    if prompt[-1]["role"] == "assistant":
        raise InvalidRow(
            f"{name} ends with a message of the assistant, and must end before the answer; an answer cannot continue a "
            "message"
        )
