"""Which pairs are kept; those that are invalid are listed by location and reason."""

import logging
import math
from collections import Counter
from collections.abc import Callable
from typing import Literal

import numpy as np
from datasets import Dataset

from lightning_dpo.data.rows.reasons import without_excerpts
from lightning_dpo.errors import UserError
from lightning_dpo.printable import printable

_LISTED = 10  # rows in a message; a file lists all
_CHECK = (
    "Check that the columns (data.source) and the tokenizer are the right ones; model=tiny, the default, knows only "
    "the words of data=reviews"
)

log = logging.getLogger(__name__)


def valid_rows(
    pairs: Dataset,
    on_invalid: Literal["error", "drop"],
    max_invalid_fraction: float,
    list_invalid: Callable[[list[dict[str, str]]], None],
) -> np.ndarray:
    """The indices of the rows of `pairs` that are not marked as invalid. Shape: (valid,), int64.

    Args:
        pairs: Rows with `where` and `invalid`.
        on_invalid: `error` rejects data with invalid rows; `drop` removes these rows and logs a warning.
        max_invalid_fraction: With `drop`, the maximum share of invalid rows. More indicate another kind of error.
        list_invalid: Receives `where` and `reason` of the invalid rows.

    Raises:
        UserError: There are invalid rows, too many of them, or no valid row.
    """
    reasons = pairs["invalid"][:]
    bad = [row for row, reason in enumerate(reasons) if reason]
    if not bad:
        return np.arange(len(pairs))
    found = [{"where": pairs[row]["where"], "reason": printable(reasons[row])} for row in bad]
    first = "; ".join(f"{row['where']}: {row['reason']}" for row in found[:_LISTED])
    reasons_of = Counter(without_excerpts(row["reason"]) for row in found)
    counts = "; ".join(f"{count}: {reason}" for reason, count in reasons_of.most_common(5))
    share = f"{len(bad)} of {len(pairs)} rows are invalid ({counts})"
    list_invalid(found)
    if len(bad) == len(pairs):
        raise UserError(f"{share}. The first: {found[0]['where']}: {found[0]['reason']}. {_CHECK}")
    # Rounded up to a number that is easy to read.
    allowed = math.ceil(100 * len(bad) / len(pairs)) / 100
    too_many = len(bad) / len(pairs) > max_invalid_fraction
    if on_invalid == "error":
        options = f"data.on_invalid=drop{f' data.max_invalid_fraction={allowed}' if too_many else ''}"
        raise UserError(f"{first}. {share}; correct them, or remove them with {options}")
    if too_many:
        raise UserError(
            f"{share}, more than data.max_invalid_fraction={max_invalid_fraction}. The first: {first}. {_CHECK}; to "
            f"remove these rows, set data.max_invalid_fraction={allowed}"
        )
    log.warning("Dropped: %s. The first: %s.", share, first)
    return np.array([row for row, reason in enumerate(reasons) if not reason])
