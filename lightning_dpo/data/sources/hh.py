"""Anthropic's HH-RLHF (https://arxiv.org/abs/2204.05862): two whole dialogues that share all but the last answer."""

from pathlib import Path
from typing import Any

from datasets import Dataset

from lightning_dpo.data.rows.reasons import InvalidRow
from lightning_dpo.data.rows.validation import to_pairs
from lightning_dpo.data.sources.files import read_rows
from lightning_dpo.data.sources.hub import hub_rows
from lightning_dpo.errors import UserError

NAME = "Anthropic/hh-rlhf"
MARK = "\n\nAssistant:"
SUBSETS = ("all", "harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled")
_HUB_SPLITS = {"train": "train", "validation": "test"}


def hh_pairs(split: str, path: str | Path | None = None, *, subset: str = "all") -> Dataset | None:
    """The pairs of a split of the hub's data set, or of a file in its format.

    Args:
        split: `train` or `validation` (the hub's `test`).
        path: A .jsonl or .jsonl.gz file with `chosen` and `rejected`, instead of the hub.
        subset: `all`, `harmless-base`, `helpful-base`, `helpful-online` or `helpful-rejection-sampled`.

    Returns:
        Rows of `PreferencePair`.

    Raises:
        UserError: The file or the hub cannot be read.
    """
    if subset not in SUBSETS:
        raise UserError(f"data.source.subset={subset}: HH has {', '.join(SUBSETS)}")
    rows = read_rows(path) if path else hub_rows(NAME, _HUB_SPLITS[split], None if subset == "all" else subset)
    return to_pairs(rows, split_dialogues, str(path or f"{NAME} ({subset}, {split})"))


def split_dialogues(row: dict[str, Any]) -> dict[str, str]:
    r"""Cut each dialogue after its own last `\n\nAssistant:`; what comes before must be the same in both.

    >>> split_dialogues({"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: No"})
    {'prompt': '\n\nHuman: Hi\n\nAssistant:', 'chosen': ' Hello', 'rejected': ' No'}
    """
    dialogues = row["chosen"], row["rejected"]
    if not all(isinstance(dialogue, str) for dialogue in dialogues):
        raise InvalidRow("wrong_type")
    (prompt, mark, chosen), (other_prompt, other_mark, rejected) = (text.rpartition(MARK) for text in dialogues)
    if not mark or not other_mark:
        raise InvalidRow("no_answer")
    if prompt != other_prompt:
        raise InvalidRow("different_prompts")
    return {"prompt": prompt + mark, "chosen": chosen, "rejected": rejected}
