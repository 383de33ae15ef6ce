"""StackExchange answers by score (https://huggingface.co/datasets/HuggingFaceH4/stack-exchange-preferences)."""

from itertools import combinations
from typing import Any

from bs4 import BeautifulSoup

from lightning_dpo.data.rows.pairs import PreferencePair
from lightning_dpo.data.sources.shp import question_pair


def stack_exchange_pairs(row: dict[str, Any], *, chat: bool = False) -> list[PreferencePair]:
    """All pairs of answers to a question whose scores differ, without HTML tags.

    Args:
        row: A row with `question` and `answers`, a list of objects with `text` and `pm_score`.
        chat: Messages instead of text with `Human:` and `Assistant:`.
    """
    answers = [(answer["pm_score"], _plain(answer["text"])) for answer in row["answers"]]
    question = _plain(row["question"])
    return [
        question_pair(question, chosen, rejected, chat)
        for (better, chosen), (worse, rejected) in combinations(sorted(answers, reverse=True), 2)
        if better > worse
    ]


def _plain(html: str) -> str:
    """Text without tags; code keeps its lines."""
    return BeautifulSoup(html, "html.parser").get_text().strip()
