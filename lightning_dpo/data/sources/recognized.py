"""Pairs of a dataset whose columns are recognized by their names, as of most preference datasets on the hub."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_dpo.data.rows.pairs import PreferencePair
from lightning_dpo.data.rows.reasons import InvalidRow
from lightning_dpo.data.sources.jsonl import jsonl_pair

# In the order in which they are looked for: orpo-dpo-mix, for example, has both `prompt` and `question`.
_PROMPTS = ("prompt", "instruction", "question", "query", "input", "conversations")
_CHOSEN = ("chosen", "chosen_response", "accepted", "response_j")
_REJECTED = ("rejected", "rejected_response", "response_k")
_SYSTEMS = ("system", "system_prompt")


def recognized_pair(
    row: dict[str, Any],
    *,
    prompt: str | None = None,
    chosen: str | None = None,
    rejected: str | None = None,
    query: str | None = None,
    system: str | None = None,
    chat: bool = False,
    roles: Mapping[str, str] | None = None,
    weight: str | None = None,
    offset: str | None = None,
    label_noise: str | None = None,
    source: str | None = None,
) -> PreferencePair:
    """The pair in the columns of a row: in those that are named, and otherwise in those with a known name.

    A row without a prompt has whole texts or dialogues as answers, which are split where they start to differ.

    Args:
        row: The row.
        prompt: Column of the prompt; None: `prompt`, `instruction`, `question`, ..., or part of the answers.
        chosen: Column of the preferred answer; None: `chosen`, `chosen_response`, `accepted`, ...
        rejected: Column of the other answer; None: `rejected`, `rejected_response`, ...
        query: Column of text that is appended to the prompt on a new line; None: `input`, after an `instruction`.
        system: Column of a system message; None: `system` or `system_prompt`.
        chat: Convert text to one user message and its answer, for the chat template.
        roles: Names of roles in the messages and their standard names, in addition to known ones.
        weight: Column with the weight of the pair's loss; None: every pair has weight 1.
        offset: Column of the target reward margin; None: every pair has offset 0.
        label_noise: Column of the probability that the label is wrong; None: every pair has 0.
        source: Column of a subset's name; None: no such column.

    Raises:
        InvalidRow: A column is missing or not known, or the columns do not form a pair.
    """
    prompt = prompt or _first(row, _PROMPTS)
    if query is None and prompt == "instruction":
        query = _first(row, ("input",))
    return jsonl_pair(
        row,
        prompt=prompt,
        chosen=chosen or _answer(row, "chosen", _CHOSEN),
        rejected=rejected or _answer(row, "rejected", _REJECTED),
        query=query,
        system=system or _first(row, _SYSTEMS),
        chat=chat,
        roles=roles,
        weight=weight,
        offset=offset,
        label_noise=label_noise,
        source=source,
    )


def _first(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in row), None)


def _answer(row: Mapping[str, Any], side: str, names: Sequence[str]) -> str:
    name = _first(row, names)
    if name is None:
        raise InvalidRow(
            f"no column is known as the {side} answer; there are {', '.join(map(str, row))}: set data.source.{side}"
        )
    return name
