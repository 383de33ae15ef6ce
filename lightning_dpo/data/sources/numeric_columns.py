"""Weight, offset and label noise of a pair: from columns of its row, or from the difference of the answers' scores."""

import math
from collections.abc import Mapping
from typing import Any, TypeAlias, cast

from lightning_dpo.data.rows.columns import value_of
from lightning_dpo.data.rows.pairs import PreferencePair
from lightning_dpo.data.rows.reasons import InvalidRow

Columns: TypeAlias = Mapping[str, str | float | None] | None
"""The option `columns` of sources. For each of `weight`, `offset` and `label_noise`: the name of a column, or a number
that multiplies the difference of the scores; None: the pair does not have it."""


def with_numbers(
    pair: PreferencePair, row: dict[str, Any], columns: Columns, difference: float | None = None
) -> PreferencePair:
    """A pair with the numeric columns that the option `columns` of a source selects.

    Args:
        pair: The pair.
        row: The row of the source.
        columns: The option.
        difference: Score of the chosen answer minus score of the rejected one; None: the source has no scores.

    Returns:
        The pair with numbers. Of a scale k and a difference d, the weight and the offset are k d, and the probability
        that the label is wrong is σ(−k d): if k d is a difference of rewards, that of the Bradley-Terry model.

    Raises:
        InvalidRow: A number is given, and the source has no scores.
        KeyError: A column is missing.
    """
    numbers: dict[str, Any] = {}
    for name, source in (columns or {}).items():
        if isinstance(source, str):
            numbers[name] = value_of(row, source)
        elif source is not None:
            if difference is None:
                raise InvalidRow(
                    f"columns.{name}={source} multiplies a difference of scores, and this source has no scores: set it "
                    "to the name of a column"
                )
            scaled = source * difference
            # math.exp overflows beyond 709, where the probability is 0 in any precision.
            numbers[name] = 1 / (1 + math.exp(min(scaled, 700.0))) if name == "label_noise" else scaled
    return cast(PreferencePair, pair | numbers)


def has_scale(columns: Columns) -> bool:
    """Whether `columns` uses the difference of scores.

    >>> has_scale({"weight": "trust", "offset": 0.5})
    True
    """
    return any(source is not None and not isinstance(source, str) for source in (columns or {}).values())
