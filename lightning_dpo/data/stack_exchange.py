"""StackExchange's answers by their votes (https://huggingface.co/datasets/HuggingFaceH4/stack-exchange-preferences)."""

from collections.abc import Iterable, Iterator
from itertools import combinations, islice
from pathlib import Path

from bs4 import BeautifulSoup
from datasets import Dataset

from lightning_dpo.data.hub import hub_rows
from lightning_dpo.data.pairs import PreferencePair
from lightning_dpo.data.reading import Row, read_rows
from lightning_dpo.data.validation import to_pairs

NAME = "HuggingFaceH4/stack-exchange-preferences"


def load_pairs(
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
            reason = row if isinstance(row, str) else ""
            answers = [] if reason else [(answer["pm_score"], _plain(answer["text"])) for answer in row["answers"]]
            question = "" if reason else _plain(row["question"])
        except KeyError as field:
            reason = f"missing_field {field.args[0]}"
        except TypeError:
            reason = "wrong_type"
        if reason:
            yield where, reason
            continue
        for (better, chosen), (worse, rejected) in combinations(sorted(answers, reverse=True), 2):
            if better > worse:
                yield where, _pair(question, chosen, rejected, chat)


def _pair(question: str, chosen: str, rejected: str, chat: bool) -> PreferencePair:
    if chat:
        return {"prompt": [{"role": "user", "content": question}], "chosen": chosen, "rejected": rejected}
    prompt = f"\n\nHuman: {question}\n\nAssistant:"
    return {"prompt": prompt, "chosen": f" {chosen}", "rejected": f" {rejected}"}


def _plain(html: str) -> str:
    """Text without tags; what is code stays on lines of its own."""
    return BeautifulSoup(html, "html.parser").get_text().strip()
