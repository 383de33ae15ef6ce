"""Stanford Human Preferences (https://huggingface.co/datasets/stanfordnlp/SHP): Reddit comments ranked by votes."""

import math
from typing import Any

from lightning_dpo.data.rows.pairs import PreferencePair
from lightning_dpo.data.rows.reasons import InvalidRow, found
from lightning_dpo.data.sources.numeric_columns import Columns, with_numbers
from lightning_dpo.data.sources.questions import question_pair


def shp_pair(
    row: dict[str, Any], *, min_score_ratio: float = 2.0, chat: bool = False, columns: Columns = None
) -> PreferencePair | list[PreferencePair]:
    """The pair of a row; none if the scores are too close.

    Args:
        row: A row with `history`, `human_ref_A`, `human_ref_B`, `labels`, `score_A` and `score_B`.
        min_score_ratio: Minimum ratio of the better comment's score to the other's. The DPO authors use 2.
        chat: Messages instead of text with `Human:` and `Assistant:`.
        columns: Columns or scales of weight, offset and label noise; see `with_numbers`. The difference is that of the
            logarithms of the scores, so that with `label_noise: 1` the label is wrong with the probability
            low / (low + high). A score below 1 counts as 1.

    Raises:
        InvalidRow: The label is neither 0 nor 1.
    """
    if row["labels"] not in (0, 1):
        raise InvalidRow(f"labels must be 1 if comment A is preferred, 0 if B, not {found(row['labels'])}")
    low, high = sorted((row["score_A"], row["score_B"]))
    # A score can be zero or negative; then the ratio has no meaning, and the better comment counts as better.
    if low > 0 and high / low < min_score_ratio:
        return []
    first, second = row["human_ref_A"], row["human_ref_B"]
    chosen, rejected = (first, second) if row["labels"] == 1 else (second, first)
    pair = question_pair(row["history"], chosen, rejected, chat)
    return with_numbers(pair, row, columns, math.log(max(high, 1) / max(low, 1)))
