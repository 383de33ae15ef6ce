"""Which pairs are kept; those that are invalid are listed by location and reason."""

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Literal

from datasets import Dataset

from lightning_dpo.data.rows.reasons import without_excerpts
from lightning_dpo.errors import UserError
from lightning_dpo.printable import printable
from lightning_dpo.run_folder import RunFolder, write_atomically

log = logging.getLogger(__name__)


def valid(
    pairs: Dataset, on_invalid: Literal["error", "drop"], max_invalid_fraction: float, folder: Path | None
) -> Dataset:
    """The rows of `pairs` that are not marked as invalid.

    Args:
        pairs: Rows with `where` and `invalid`.
        on_invalid: `error` rejects data with invalid rows; `drop` removes these rows and logs a warning.
        max_invalid_fraction: With `drop`, the maximum share of invalid rows. More indicate another kind of error.
        folder: Where `invalid_rows.jsonl` lists the removed rows; None: it is not written.

    Raises:
        UserError: There are invalid rows, too many of them, or no valid row.
    """
    reasons = pairs["invalid"][:]
    bad = [row for row, reason in enumerate(reasons) if reason]
    if not bad:
        return pairs
    found = [{"where": pairs[row]["where"], "reason": printable(reasons[row])} for row in bad]
    first = "; ".join(f"{row['where']}: {row['reason']}" for row in found[:10])
    reasons_of = Counter(without_excerpts(row["reason"]) for row in found)
    counts = "; ".join(f"{count}: {reason}" for reason, count in reasons_of.most_common(5))
    share = f"{len(bad)} of {len(pairs)} rows are invalid ({counts})"
    if folder:
        path = RunFolder(folder).invalid_rows
        earlier = path.read_text(encoding="utf-8") if path.exists() else ""
        write_atomically(path, earlier + "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found))
    if on_invalid == "error":
        raise UserError(f"{first}. {share}; correct them, or remove them with data.on_invalid=drop")
    if len(bad) > max_invalid_fraction * len(pairs):
        raise UserError(
            f"{share}, more than data.max_invalid_fraction={max_invalid_fraction}. The first: {first}. Check that the "
            "columns and the tokenizer are the right ones"
        )
    if len(bad) == len(pairs):
        raise UserError(f"{share}, so no pair is left. The first: {first}")
    log.warning("Dropped: %s. The first: %s.", share, first)
    return pairs.select([row for row, reason in enumerate(reasons) if not reason])
