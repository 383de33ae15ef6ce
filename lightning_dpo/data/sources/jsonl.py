"""Pairs from a file of your own: text or messages, a prompt of its own or within the answers, column names settable."""

from pathlib import Path
from typing import Any

from datasets import Dataset

from lightning_dpo.data.rows.messages import as_chat, explicit_pair
from lightning_dpo.data.rows.pairs import MESSAGE_COLUMNS
from lightning_dpo.data.rows.reasons import InvalidRow
from lightning_dpo.data.rows.validation import to_pairs
from lightning_dpo.data.sources.files import read_rows
from lightning_dpo.errors import UserError


def jsonl_pairs(
    split: str,
    path: str | Path | None = None,
    *,
    prompt: str | None = "prompt",
    chosen: str = "chosen",
    rejected: str = "rejected",
    query: str | None = None,
    system: str | None = None,
    chat: bool = False,
    weight: str | None = None,
    offset: str | None = None,
    source: str | None = None,
) -> Dataset | None:
    """The pairs of a file; its columns `tools` and `chat_template_kwargs` are carried on.

    Args:
        split: `train` or `validation`; both read the file they are given.
        path: A .jsonl, .jsonl.gz, .json or .parquet file.
        prompt: Column of the prompt; None: `chosen` and `rejected` are whole texts or dialogues.
        chosen: Column of the preferred answer.
        rejected: Column of the other answer.
        query: Column of text that follows the prompt on a line of its own (Alpaca's `input`); None: there is none.
        system: Column of a system message; None: there is none.
        chat: Show texts to the chat template as one question and its answer, instead of training on bare text.
        weight: Column of the loss's factor; None: every pair has weight 1.
        offset: Column of the margin's offset; None: every pair has offset 0.
        source: Column of a name by which metrics are kept apart; None: they are not.

    Returns:
        Rows of `PreferencePair`, or None for a validation split without a file of its own.

    Raises:
        UserError: No file was given, or it cannot be read.
    """
    if path is None:
        if split == "train":
            raise UserError("data.path is not set: name a .jsonl, .jsonl.gz, .json or .parquet file")
        return None
    columns = {"chosen": chosen, "rejected": rejected, "weight": weight, "offset": offset, "source": source}
    named = {field: column for field, column in columns.items() if column is not None}

    def to_pair(row: dict[str, Any]) -> dict[str, Any]:
        """The pair in the named columns of a row."""
        pair = {field: row[column] for field, column in named.items()}
        pair |= explicit_pair(_question(row, prompt, query, pair["chosen"]), pair["chosen"], pair["rejected"])
        if chat or isinstance(pair["prompt"], list):
            pair = as_chat(pair, row[system] if system else None)
        elif system:
            raise InvalidRow("wrong_type system is for messages, or data.source.chat=true")
        return pair | {name: row[name] for name in MESSAGE_COLUMNS if row.get(name)}

    return to_pairs(read_rows(path), to_pair, str(path))


def _question(row: dict[str, Any], prompt: str | None, query: str | None, answer: Any) -> Any:
    """The prompt, and below it the query; None where whole dialogues, or texts of which that is said, hold it."""
    # Texts may hold their prompt as well, but not unasked: it could be a forgotten column.
    texts = isinstance(answer, str) and prompt is not None
    question = row.get(prompt) if prompt is not None else None
    if texts and prompt not in row:
        raise KeyError(prompt)
    if texts and question is None:
        raise InvalidRow("wrong_type")
    if query and row[query]:
        if not isinstance(question, str):
            raise InvalidRow("wrong_type query is for text")
        question = f"{question}\n{row[query]}"
    return question
