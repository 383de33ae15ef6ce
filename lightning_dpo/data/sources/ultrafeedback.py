"""UltraFeedback, binarized (https://arxiv.org/abs/2310.01377): answers of many models, scored by GPT-4."""

from typing import Any

from lightning_dpo.data.rows.pairs import PreferencePair
from lightning_dpo.data.sources.numeric_columns import Columns, has_scale, with_numbers
from lightning_dpo.data.sources.ranked import number_of


def ultrafeedback_pair(
    row: dict[str, Any], *, min_margin: float = 0.0, columns: Columns = None
) -> PreferencePair | list[PreferencePair]:
    """The pair of a row, as messages; none if the scores are too close.

    Args:
        row: A row with `chosen`, `rejected`, and if `min_margin` or a scale is set `score_chosen` and `score_rejected`.
        min_margin: Minimum difference of the two scores. 0 keeps all pairs, those with equal scores included.
        columns: Columns or scales of weight, offset and label noise; see `with_numbers`. Scores are from 1 to 10.

    Raises:
        InvalidRow: A score is not a number.
    """
    difference = None
    if min_margin > 0 or has_scale(columns):
        high, low = (number_of(row[name], name) for name in ("score_chosen", "score_rejected"))
        difference = high - low
        if difference < min_margin:
            return []
    pair: PreferencePair = {"prompt": row.get("prompt"), "chosen": row["chosen"], "rejected": row["rejected"]}
    return with_numbers(pair, row, columns, difference)
