"""UltraFeedback, binarized (https://arxiv.org/abs/2310.01377): answers of many models, scored by GPT-4."""

from typing import Any

from lightning_dpo.data.rows.pairs import PreferencePair
from lightning_dpo.data.sources.ranked import number_of


def ultrafeedback_pair(row: dict[str, Any], *, min_margin: float = 0.0) -> PreferencePair | list[PreferencePair]:
    """The pair of a row, as messages; none if the scores are too close.

    Args:
        row: A row with `chosen`, `rejected`, and if `min_margin` is set `score_chosen` and `score_rejected`.
        min_margin: Minimum difference of the two scores. 0 keeps all pairs, those with equal scores included.

    Raises:
        InvalidRow: A score is not a number.
    """
    if min_margin > 0:
        high, low = (number_of(row[name], name) for name in ("score_chosen", "score_rejected"))
        if high - low < min_margin:
            return []
    return {"prompt": row.get("prompt"), "chosen": row["chosen"], "rejected": row["rejected"]}
