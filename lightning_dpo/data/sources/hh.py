"""Anthropic's HH-RLHF (https://arxiv.org/abs/2204.05862): two dialogues that differ only in the last answer."""

from typing import Any

from lightning_dpo.data.prefix import common_prefix
from lightning_dpo.data.rows.pairs import PreferencePair
from lightning_dpo.data.rows.reasons import InvalidRow, excerpt, found
from lightning_dpo.data.sources.numeric_columns import Columns, with_numbers
from lightning_dpo.data.sources.questions import ASSISTANT, HUMAN, messages_of


def hh_pair(row: dict[str, Any], *, chat: bool = False, columns: Columns = None) -> PreferencePair:
    r"""Split each dialogue after its last `\n\nAssistant:`. The text before must be the same in both.

    Args:
        row: A row with `chosen` and `rejected`.
        chat: Messages, for the chat template, instead of text.
        columns: Columns of weight, offset and label noise; see `with_numbers`.

    >>> hh_pair({"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: No"})
    {'prompt': '\n\nHuman: Hi\n\nAssistant:', 'chosen': ' Hello', 'rejected': ' No'}

    Raises:
        InvalidRow: A dialogue is not text or has no answer, or the prompts differ.
    """
    for name in ("chosen", "rejected"):
        if not isinstance(row[name], str):
            raise InvalidRow(f"{name} must be text, not {found(row[name])}")
    # The common prefix of both texts would not do: answers may begin with the same words.
    (prompt, mark, chosen), (other_prompt, other_mark, rejected) = (
        row[name].rpartition(ASSISTANT) for name in ("chosen", "rejected")
    )
    for name, found_mark in (("chosen", mark), ("rejected", other_mark)):
        if not found_mark:
            raise InvalidRow(f"{name} has no {ASSISTANT.strip()!r}")
    if prompt != other_prompt:
        same = common_prefix(prompt, other_prompt)
        raise InvalidRow(
            f"the two dialogues have different prompts (after {same} characters, {excerpt(prompt[same:])} and "
            f"{excerpt(other_prompt[same:])})"
        )
    if chat:
        if not prompt.startswith(HUMAN):
            raise InvalidRow(f"the dialogues must begin with {HUMAN!r}, not {excerpt(prompt)}")
        pair = PreferencePair(prompt=messages_of(prompt + mark), chosen=chosen.strip(), rejected=rejected.strip())
    else:
        pair = PreferencePair(prompt=prompt + mark, chosen=chosen, rejected=rejected)
    return with_numbers(pair, row, columns)
