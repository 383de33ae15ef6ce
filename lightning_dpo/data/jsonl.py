"""Pairs from a file of your own: an explicit prompt and two answers per row, column names settable."""

from pathlib import Path

from datasets import Dataset

from lightning_dpo.data.reading import read_rows
from lightning_dpo.data.validation import to_pairs
from lightning_dpo.errors import UserError


def load_pairs(
    split: str,
    path: str | Path | None = None,
    *,
    prompt: str = "prompt",
    chosen: str = "chosen",
    rejected: str = "rejected",
    weight: str | None = None,
    offset: str | None = None,
) -> Dataset | None:
    """The pairs of a .jsonl, .jsonl.gz, .json or .parquet file.

    Args:
        split: `train` or `validation`; both read the file they are given.
        path: The file.
        prompt: Column of the prompt.
        chosen: Column of the preferred answer.
        rejected: Column of the other answer.
        weight: Column of the loss's factor; None: every pair has weight 1.
        offset: Column of the margin's offset; None: every pair has offset 0.

    Returns:
        Rows of `PreferencePair`, or None for a validation split without a file of its own.

    Raises:
        UserError: No file was given, or it cannot be read.
    """
    if path is None:
        if split == "train":
            raise UserError("data.path is not set: name a .jsonl, .jsonl.gz, .json or .parquet file")
        return None
    columns = {"prompt": prompt, "chosen": chosen, "rejected": rejected, "weight": weight, "offset": offset}
    named = {field: column for field, column in columns.items() if column is not None}
    return to_pairs(read_rows(path), lambda row: {field: row[column] for field, column in named.items()}, str(path))
