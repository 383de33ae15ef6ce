"""StackExchange answers by score (https://huggingface.co/datasets/HuggingFaceH4/stack-exchange-preferences)."""

from html.parser import HTMLParser
from typing import Any

from lightning_dpo.data.rows.pairs import PreferencePair
from lightning_dpo.data.sources.numeric_columns import Columns, with_numbers
from lightning_dpo.data.sources.questions import question_pair
from lightning_dpo.data.sources.ranked import better_and_worse


def stack_exchange_pairs(row: dict[str, Any], *, chat: bool = False, columns: Columns = None) -> list[PreferencePair]:
    """All pairs of answers to a question whose scores differ, without HTML tags.

    Args:
        row: A row with `question` and `answers`, a list of objects with `text` and `pm_score`.
        chat: Messages instead of text with `Human:` and `Assistant:`.
        columns: Columns or scales of weight, offset and label noise; see `with_numbers`. `pm_score` is the binary
            logarithm of 1 + votes, rounded, plus 1 for the accepted answer.
    """
    answers = [(answer["pm_score"], _plain(answer["text"])) for answer in row["answers"]]
    question = _plain(row["question"])
    return [
        with_numbers(question_pair(question, better, worse, chat), row, columns, difference)
        for better, worse, difference in better_and_worse(sorted(answers, reverse=True))
    ]


def _plain(html: str) -> str:
    """Text without tags; code keeps its lines."""
    parser = _Text()
    parser.feed(html)
    parser.close()
    return "".join(parser.parts).strip()


class _Text(HTMLParser):
    """Collects the text of a page, with character references replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []

    def handle_data(self, data: str) -> None:
        self.parts.append(data)
