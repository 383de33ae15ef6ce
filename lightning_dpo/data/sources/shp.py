"""Stanford Human Preferences (https://huggingface.co/datasets/stanfordnlp/SHP): Reddit's comments by their votes."""

from pathlib import Path
from typing import Any

from datasets import Dataset

from lightning_dpo.data.rows.pairs import PreferencePair
from lightning_dpo.data.rows.validation import to_pairs
from lightning_dpo.data.sources.files import kept_rows, read_rows
from lightning_dpo.data.sources.hub import hub_rows

NAME = "stanfordnlp/SHP"


def shp_pairs(
    split: str, path: str | Path | None = None, *, min_score_ratio: float = 2.0, chat: bool = False
) -> Dataset | None:
    """The pairs of a split of the hub's data set, or of a file in its format.

    Args:
        split: `train` or `validation`.
        path: A file in the hub's format, instead of the hub.
        min_score_ratio: Minimum ratio of the better comment's score to the worse one's. The DPO authors use 2.
        chat: Messages instead of text with `Human:` and `Assistant:`.

    Returns:
        Rows of `PreferencePair`.

    Raises:
        UserError: The file or the hub cannot be read.
    """
    rows = read_rows(path) if path else hub_rows(NAME, split)
    kept = kept_rows(rows, lambda row: _ratio(row) >= min_score_ratio, "min_score_ratio")
    return to_pairs(kept, _messages if chat else _text, str(path or f"{NAME} ({split})"))


def _ratio(row: dict[str, Any]) -> float:
    """Votes of the better comment over those of the other, either of which may be below one."""
    low, high = sorted((row["score_A"], row["score_B"]))
    return high / low if low > 0 else float("inf")


def _answers(row: dict[str, Any]) -> tuple[str, str]:
    """The preferred comment and the other; label 1 prefers A."""
    first, second = row["human_ref_A"], row["human_ref_B"]
    return (first, second) if row["labels"] == 1 else (second, first)


def _text(row: dict[str, Any]) -> PreferencePair:
    chosen, rejected = _answers(row)
    prompt = f"\n\nHuman: {row['history']}\n\nAssistant:"
    return {"prompt": prompt, "chosen": f" {chosen}", "rejected": f" {rejected}"}


def _messages(row: dict[str, Any]) -> PreferencePair:
    chosen, rejected = _answers(row)
    return {"prompt": [{"role": "user", "content": row["history"]}], "chosen": chosen, "rejected": rejected}
