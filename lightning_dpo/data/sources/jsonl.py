"""Pairs in the columns of your own file: text or messages, with or without a prompt column."""

from collections.abc import Mapping
from typing import Any, cast

from lightning_dpo.data.rows.columns import optional, value_of
from lightning_dpo.data.rows.pair_forms import as_chat, explicit_pair
from lightning_dpo.data.rows.pairs import MESSAGE_COLUMNS, PreferencePair
from lightning_dpo.data.rows.reasons import InvalidRow, found


def jsonl_pair(
    row: dict[str, Any],
    *,
    prompt: str | None = "prompt",
    chosen: str = "chosen",
    rejected: str = "rejected",
    query: str | None = None,
    system: str | None = None,
    chat: bool = False,
    roles: Mapping[str, str] | None = None,
    weight: str | None = None,
    offset: str | None = None,
    label_noise: str | None = None,
    chosen_mask: str | None = None,
    rejected_mask: str | None = None,
    source: str | None = None,
) -> PreferencePair:
    """The pair in the named columns of a row. The columns `tools` and `chat_template_kwargs` are read as well.

    A column can be a path into objects, such as `response.text`.

    Args:
        row: The row.
        prompt: Column of the prompt; None: `chosen` and `rejected` are whole texts or dialogues.
        chosen: Column of the preferred answer.
        rejected: Column of the other answer.
        query: Column of text that is appended to the prompt on a new line (`input` in Alpaca); None: no such column.
        system: Column of a system message; None: no such column.
        chat: Convert text to one user message and its answer, for the chat template.
        roles: Names of roles in the messages and their standard names, such as `{"environment": "tool"}`, in addition
            to known ones such as `human` and `gpt`.
        weight: Column with the weight of the pair's loss; None: every pair has weight 1.
        offset: Column of the target reward margin; None: every pair has offset 0.
        label_noise: Column of the probability that the label is wrong; None: every pair has 0.
        chosen_mask: Column of a list of 0 and 1 for the tokens of the preferred answer, its end token included. Tokens
            with 0 are not scored. None: all are.
        rejected_mask: The same for the other answer.
        source: Column of a subset's name; validation metrics are logged for each; None: no such column.

    Raises:
        InvalidRow: A column is missing, or the columns do not form a pair.
    """
    answers = _needed(row, chosen, "chosen"), _needed(row, rejected, "rejected")
    question = _question(row, prompt, query, answers[0])
    pair = explicit_pair(question, *answers, names=(prompt or "prompt", chosen, rejected), roles=roles)
    numbers = {"weight": weight, "offset": offset, "label_noise": label_noise}
    masks = {"chosen_mask": chosen_mask, "rejected_mask": rejected_mask}
    pair |= {name: _needed(row, column, name) for name, column in (numbers | masks).items() if column}
    pair |= {"source": optional(row, source)} if source else {}
    if chat or isinstance(pair["prompt"], list):
        pair = as_chat(pair, _text(row, system))
    elif _text(row, system):
        raise InvalidRow(f"{system} needs messages; for text, set data.source.chat=true")
    return cast(PreferencePair, pair | {name: row[name] for name in MESSAGE_COLUMNS if row.get(name)})


def _question(row: dict[str, Any], prompt: str | None, query: str | None, answer: Any) -> Any:
    """The prompt and, below it, the query. None if the prompt is part of the answers."""
    # Texts may contain their prompt too, but only if prompt=None asks for it: a missing column is likely an error.
    needs_prompt = isinstance(answer, str) and prompt is not None
    question = _needed(row, prompt, "prompt") if prompt is not None and needs_prompt else optional(row, prompt)
    if needs_prompt and question is None:
        raise InvalidRow(f"{prompt} is null")
    if more := _text(row, query):
        if not isinstance(question, str):
            raise InvalidRow(f"{query} can be appended only to a prompt that is text, not {found(question)}")
        question = f"{question}\n{more}"
    return question


def _needed(row: dict[str, Any], column: str, argument: str) -> Any:
    try:
        return value_of(row, column)
    except KeyError as error:
        there = ", ".join(map(str, row))
        raise InvalidRow(
            f"column {column!r} is missing; there are {there}: set data.source.{argument} to one of them"
        ) from error


def _text(row: dict[str, Any], column: str | None) -> str | None:
    """The text of a column that may be missing, null or empty."""
    text = optional(row, column)
    if not isinstance(text, str | None):
        raise InvalidRow(f"{column} must be text, not {found(text)}")
    return text or None
