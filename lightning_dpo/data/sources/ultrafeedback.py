"""UltraFeedback, binarized (https://arxiv.org/abs/2310.01377): answers of many models, graded by GPT-4."""

from pathlib import Path
from typing import Any

from datasets import Dataset

from lightning_dpo.data.rows.validation import to_pairs
from lightning_dpo.data.sources.files import kept_rows, read_rows
from lightning_dpo.data.sources.hub import hub_rows

NAME = "HuggingFaceH4/ultrafeedback_binarized"
_HUB_SPLITS = {"train": "train_prefs", "validation": "test_prefs"}


def ultrafeedback_pairs(split: str, path: str | Path | None = None, *, min_margin: float = 0.0) -> Dataset | None:
    """The pairs of a split of the hub's data set, or of a file in its format: messages.

    Args:
        split: `train` (the hub's `train_prefs`) or `validation` (`test_prefs`).
        path: A file with `chosen`, `rejected`, `score_chosen` and `score_rejected`, instead of the hub.
        min_margin: Pairs whose grades differ by less are not taken; 0 takes all, also those of equal grades.

    Returns:
        Rows of `PreferencePair`.

    Raises:
        UserError: The file or the hub cannot be read.
    """
    rows = read_rows(path) if path else hub_rows(NAME, _HUB_SPLITS[split])
    if min_margin > 0:
        rows = kept_rows(rows, lambda row: row["score_chosen"] - row["score_rejected"] >= min_margin, "min_margin")
    return to_pairs(rows, _pair, str(path or f"{NAME} ({split})"))


def _pair(row: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": row.get("prompt"), "chosen": row["chosen"], "rejected": row["rejected"]}
