"""StackExchange's answers by their votes (https://huggingface.co/datasets/HuggingFaceH4/stack-exchange-preferences)."""

from collections.abc import Iterable, Iterator
from itertools import combinations, islice
from pathlib import Path
from typing import Any

from bs4 import BeautifulSoup
from datasets import Dataset

from lightning_dpo.data.rows.pairs import Row
from lightning_dpo.data.rows.reasons import InvalidRow
from lightning_dpo.data.rows.validation import to_pairs
from lightning_dpo.data.sources.files import read_rows
from lightning_dpo.data.sources.hub import hub_rows

NAME = "HuggingFaceH4/stack-exchange-preferences"


def stack_exchange_pairs(
    split: str,
    path: str | Path | None = None,
    *,
    questions: int | None = 20_000,
    validation_every: int = 100,
    chat: bool = False,
) -> Dataset | None:
    """All pairs of answers to a question of which one has the higher score.

    Args:
        split: `train` or `validation`. The hub has no split: every so many-th question, by its number, validates.
        path: A file with `question` and `answers` (a list of `text` and `pm_score`), instead of the hub; all of its
            questions belong to the split that is asked for.
        questions: The hub's first so many questions, of both splits together; None: all ten million.
        validation_every: Questions of the hub whose number is a multiple of this validate.
        chat: Messages instead of text with `Human:` and `Assistant:`.

    Returns:
        Rows of `PreferencePair`, a question's tags of HTML taken out of it.

    Raises:
        UserError: The file or the hub cannot be read.
    """
    rows = (
        read_rows(path)
        if path
        else _of_split(hub_rows(NAME, "train", streaming=True), split, questions, validation_every)
    )
    return to_pairs(_pairs(rows, chat), dict, str(path or f"{NAME} ({split})"))


def _of_split(rows: Iterator[Row], split: str, questions: int | None, validation_every: int) -> Iterator[Row]:
    for number, row in enumerate(islice(rows, questions)):
        if (number % validation_every == 0) == (split == "validation"):
            yield row


def _pairs(rows: Iterable[Row], chat: bool) -> Iterator[Row]:
    """Each question's pairs, a row for each; answers of equal score say nothing."""
    for where, row in rows:
        try:
            if isinstance(row, str):
                raise InvalidRow(row)
            answers = [(answer["pm_score"], _plain(answer["text"])) for answer in row["answers"]]
            question = _plain(row["question"])
        except (KeyError, TypeError, InvalidRow) as error:
            yield where, _reason(error)
            continue
        for (better, chosen), (worse, rejected) in combinations(sorted(answers, reverse=True), 2):
            if better > worse:
                yield where, _pair(question, chosen, rejected, chat)


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"missing_field {error.args[0]}"
    return str(error) if isinstance(error, InvalidRow) else "wrong_type"


def _pair(question: str, chosen: str, rejected: str, chat: bool) -> dict[str, Any]:
    if chat:
        return {"prompt": [{"role": "user", "content": question}], "chosen": chosen, "rejected": rejected}
    prompt = f"\n\nHuman: {question}\n\nAssistant:"
    return {"prompt": prompt, "chosen": f" {chosen}", "rejected": f" {rejected}"}


def _plain(html: str) -> str:
    """Text without tags; what is code stays on lines of its own."""
    return BeautifulSoup(html, "html.parser").get_text().strip()
