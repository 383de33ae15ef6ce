"""Two answers and a column that says which one is preferred: PKU-SafeRLHF, HelpSteer3, annotations of alpaca_eval."""

from collections.abc import Mapping
from typing import Any

from lightning_dpo.data.rows.columns import optional, value_of
from lightning_dpo.data.rows.pairs import PreferencePair
from lightning_dpo.data.rows.reasons import InvalidRow, found
from lightning_dpo.data.sources.numeric_columns import Columns, with_numbers
from lightning_dpo.data.sources.questions import question_pair


def compared_pair(
    row: dict[str, Any],
    *,
    first: str,
    second: str,
    preference: str,
    prefers_first: float,
    prefers_second: float,
    prompt: str = "prompt",
    chat: bool = False,
    roles: Mapping[str, str] | None = None,
    source: str | None = None,
    columns: Columns = None,
) -> PreferencePair | list[PreferencePair]:
    """The pair of a row; none for a tie, unless `columns` has a scale of label noise, which is ½ for a tie.

    Args:
        row: The row. Each column can be a path into objects, such as `response.text`.
        first: Column of the first answer.
        second: Column of the second answer.
        preference: Column of a number between `prefers_first` and `prefers_second`. The answer whose value is nearer is
            the preferred one; in the middle is a tie.
        prefers_first: Value of the strongest preference for the first answer.
        prefers_second: Value of the strongest preference for the second answer.
        prompt: Column of the prompt, text or messages.
        chat: Messages instead of text with `Human:` and `Assistant:`.
        roles: Names of roles in the messages; see `jsonl_pair`.
        source: Column of a subset's name; None: no such column.
        columns: Columns or scales of weight, offset and label noise; see `with_numbers`. The difference is the distance
            of the preference from the middle: from 1 to 3 in HelpSteer3.

    Raises:
        InvalidRow: The preference is not such a number, or the answers are not text.
        KeyError: A column is missing.
    """
    value, (low, high) = value_of(row, preference), sorted((prefers_first, prefers_second))
    answers, question = (value_of(row, first), value_of(row, second)), value_of(row, prompt)
    value = float(value) if isinstance(value, str) and value.strip("-").isdecimal() else value
    if not isinstance(value, int | float) or not low <= value <= high:
        raise InvalidRow(f"{preference} must be a number between {low} and {high}, not {found(value)}")
    name = optional(row, source)
    nearer = abs(value - prefers_second) - abs(value - prefers_first)
    if nearer == 0 and not isinstance((columns or {}).get("label_noise"), int | float):
        return []
    chosen, rejected = answers if nearer >= 0 else answers[::-1]
    pair = question_pair(question, chosen, rejected, chat, roles)
    if name is not None:
        pair["source"] = name
    return with_numbers(pair, row, columns, abs(nearer) / 2)
