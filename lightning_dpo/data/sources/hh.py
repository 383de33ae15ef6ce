"""Anthropic's HH-RLHF (https://arxiv.org/abs/2204.05862): two dialogues that differ only in the last answer."""

from typing import Any

from lightning_dpo.data.rows.pairs import PreferencePair
from lightning_dpo.data.rows.reasons import InvalidRow

MARK = "\n\nAssistant:"


def hh_pair(row: dict[str, Any]) -> PreferencePair:
    r"""Split each dialogue after its last `\n\nAssistant:`. The text before must be the same in both.

    >>> hh_pair({"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: No"})
    {'prompt': '\n\nHuman: Hi\n\nAssistant:', 'chosen': ' Hello', 'rejected': ' No'}

    Raises:
        InvalidRow: A dialogue is not text or has no answer, or the prompts differ.
    """
    for name in ("chosen", "rejected"):
        if not isinstance(row[name], str):
            raise InvalidRow(f"{name} must be text, not {type(row[name]).__name__}")
    # The common prefix of both texts would not do: answers may begin with the same words.
    (prompt, mark, chosen), (other_prompt, other_mark, rejected) = (
        row[name].rpartition(MARK) for name in ("chosen", "rejected")
    )
    if not mark or not other_mark:
        raise InvalidRow(f"a dialogue has no {MARK.strip()!r}")
    if prompt != other_prompt:
        raise InvalidRow("the two dialogues have different prompts")
    return {"prompt": prompt + mark, "chosen": chosen, "rejected": rejected}
