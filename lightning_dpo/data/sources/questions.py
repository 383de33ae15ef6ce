r"""A question and two answers as messages, or as text with `Human:` and `Assistant:`, the format of HH-RLHF."""

import re
from collections.abc import Mapping
from typing import Any

from lightning_dpo.data.rows.messages import dialogue, parsed
from lightning_dpo.data.rows.pairs import Message, PreferencePair
from lightning_dpo.data.rows.reasons import InvalidRow, found

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def question_pair(
    question: Any, chosen: Any, rejected: Any, chat: bool, roles: Mapping[str, str] | None = None
) -> PreferencePair:
    """A pair from a question and two answers.

    Args:
        question: Text, a dialogue in the format of HH-RLHF, or messages, which are always converted to messages.
        chosen: Text of the preferred answer.
        rejected: Text of the other answer.
        chat: Messages instead of text with `Human:` and `Assistant:`.
        roles: Names of roles in the messages; see `role_of`.

    Raises:
        InvalidRow: An answer or the question is not text.
    """
    for name, text in (("chosen", chosen), ("rejected", rejected)):
        if not isinstance(text, str):
            raise InvalidRow(f"the {name} answer must be text, not {found(text)}")
    question = parsed(question) or question
    if not isinstance(question, str):
        return {"prompt": dialogue(question, "prompt", roles), "chosen": chosen, "rejected": rejected}
    if chat:
        return {"prompt": messages_of(question), "chosen": chosen, "rejected": rejected}
    question = f"\n\n{question}" if question.startswith("Human:") and ASSISTANT in question else question
    prompt = question.rstrip() if question.startswith(HUMAN) else f"{HUMAN} {question}"
    prompt = prompt if prompt.endswith(ASSISTANT.strip()) else f"{prompt}{ASSISTANT}"
    return {"prompt": prompt, "chosen": f" {chosen}", "rejected": f" {rejected}"}


def messages_of(text: str) -> list[Message]:
    r"""The messages of a dialogue in the format of HH-RLHF; of other text, one message of the user.

    >>> messages_of("\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant:")[1:]
    [{'role': 'assistant', 'content': 'Hello'}, {'role': 'user', 'content': 'Why?'}]
    """
    if not text.startswith(HUMAN):
        return [{"role": "user", "content": text}]
    _, *parts = _TURN.split(text)
    turns = [
        {"role": _ROLES[role], "content": said.strip()} for role, said in zip(parts[::2], parts[1::2], strict=True)
    ]
    # The last mark introduces the answer, which is not part of a prompt.
    return turns[:-1] if not turns[-1]["content"] and turns[-1]["role"] == "assistant" else turns
