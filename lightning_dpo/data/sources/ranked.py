"""Answers with a score or a rank each: Nectar, and UltraFeedback with its ratings."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Literal

from lightning_dpo.data.rows.columns import value_of
from lightning_dpo.data.rows.pairs import PreferencePair
from lightning_dpo.data.rows.reasons import InvalidRow, found
from lightning_dpo.data.sources.numeric_columns import Columns, with_numbers
from lightning_dpo.data.sources.questions import question_pair


def ranked_pairs(
    row: dict[str, Any],
    *,
    answers: str,
    text: str,
    score: str,
    best: Literal["highest", "lowest"] = "highest",
    pairs: Literal["all", "best_worst"] = "all",
    prompt: str = "prompt",
    chat: bool = False,
    roles: Mapping[str, str] | None = None,
    columns: Columns = None,
) -> list[PreferencePair]:
    """The pairs of answers with different scores.

    Args:
        row: The row.
        answers: Column of the list of answers, each an object.
        text: Field of an answer's text. It can be a path, such as `response.text`.
        score: Field of an answer's score or rank; a path, too.
        best: Which score is the best: `highest`, or `lowest` for ranks.
        pairs: `all` pairs, or only `best_worst`: the best answer and the worst.
        prompt: Column of the prompt: text, a dialogue with `Human:` and `Assistant:`, or messages.
        chat: Messages instead of text with `Human:` and `Assistant:`.
        roles: Names of roles in the messages; see `jsonl_pair`.
        columns: Columns or scales of weight, offset and label noise; see `with_numbers`.

    Raises:
        InvalidRow: The answers are not a list of objects, or a score is not a number.
        KeyError: A column is missing.
    """
    given, question = value_of(row, answers), value_of(row, prompt)
    if not isinstance(given, list) or not all(isinstance(answer, dict) for answer in given):
        raise InvalidRow(f"{answers} must be a list of objects, not {found(given)}")
    fields = [(_field(answer, text, answers), number_of(_field(answer, score, answers), score)) for answer in given]
    sign = 1 if best == "highest" else -1
    found_pairs = better_and_worse([(sign * value, of) for of, value in fields])
    if pairs == "best_worst" and found_pairs:
        best_score, worst_score = (pick(sign * value for _, value in fields) for pick in (max, min))
        found_pairs = [(found_pairs[0][0], found_pairs[-1][1], best_score - worst_score)]
    return [
        with_numbers(question_pair(question, better, worse, chat, roles), row, columns, difference)
        for better, worse, difference in found_pairs
    ]


def better_and_worse(scored: Sequence[tuple[float, Any]]) -> list[tuple[Any, Any, float]]:
    """All pairs of items with different scores, the better one first, and the differences of their scores.

    >>> better_and_worse([(1.0, "a"), (3.0, "b"), (3.0, "c")])
    [('b', 'a', 2.0), ('c', 'a', 2.0)]
    """
    ordered = sorted(scored, key=lambda item: -item[0])
    return [(better, worse, high - low) for (high, better), (low, worse) in combinations(ordered, 2) if high > low]


def _field(answer: dict[str, Any], name: str, column: str) -> Any:
    try:
        return value_of(answer, name)
    except KeyError:
        raise InvalidRow(f"an item of {column} has no field {name!r}; there are {', '.join(answer)}") from None


def number_of(value: Any, name: str) -> float:
    """A score as a number; some datasets have scores as text.

    Raises:
        InvalidRow: It is not a number, or NaN.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if number != number:
        raise InvalidRow(f"{name} must be a number, not {found(value)}")
    return number
