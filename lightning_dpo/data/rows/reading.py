"""From rows to pairs: a source converts each row, and what is invalid, skipped or not read is recorded."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
from datasets import Dataset, Features, List, Value
from datasets.arrow_writer import ArrowWriter
from rich.progress import track

from lightning_dpo.data.rows.checked_pair import checked_pair
from lightning_dpo.data.rows.messages import MEDIA
from lightning_dpo.data.rows.pairs import MASKS, MESSAGE_COLUMNS, NUMBERS, Row, ToPair
from lightning_dpo.data.rows.reasons import InvalidRow, excerpt, reason_of
from lightning_dpo.data.rows.tracked import TrackedRow
from lightning_dpo.errors import UserError

log = logging.getLogger(__name__)

_TEXTS = ("prompt", "chosen", "rejected")
_EMPTY: dict[str, Any] = {
    **dict.fromkeys((*_TEXTS, *MESSAGE_COLUMNS, "source", "invalid"), ""),
    **NUMBERS,
    **dict.fromkeys(MASKS),
    "chat": False,
}
_FEATURES = Features(
    {name: Value("string") for name in (*_TEXTS, *MESSAGE_COLUMNS, "source", "where", "invalid")}
    | dict.fromkeys(NUMBERS, Value("float32"))
    | dict.fromkeys(MASKS, List(Value("bool")))
    | {"chat": Value("bool")}
)


@dataclass
class RowCounts:
    """What happened to the rows.

    Attributes:
        read: Number of rows.
        skipped: Number of rows from which the source made no pair.
        columns: The columns of valid rows.
        ignored: Number of rows that have a value in each column that the source did not read.
    """

    read: int = 0
    skipped: int = 0
    columns: set[str] = field(default_factory=set)
    ignored: Counter[str] = field(default_factory=Counter)


def to_pairs(rows: Iterable[Row], to_pair: ToPair, name: str, file: Path | None = None) -> tuple[Dataset, RowCounts]:
    """Convert all rows to pairs and mark those that are invalid.

    Args:
        rows: Location and content of every row.
        to_pair: Converts a row to a pair or a list of pairs. Any exception is a reason why the row is invalid.
        name: Name of the data, for the progress bar and messages.
        file: An Arrow file to write, which the result reads; None: the result is in memory.

    Returns:
        One row per pair with the fields of `PreferencePair` and `chat`, `where` and `invalid`: whether the texts are
        messages as JSON, the location, and the reason or an empty string. And the counts of rows.

    Raises:
        UserError: The data have no rows, or all rows were skipped.
    """
    counts, buffer = RowCounts(), pyarrow.BufferOutputStream()
    # Written as they are read: as Python objects, a million rows would need gigabytes.
    writer = ArrowWriter(features=_FEATURES, **({"stream": buffer} if file is None else {"path": str(file)}))
    written = 0
    for where, row in track(rows, description=f"Reading {name}", transient=True):
        pairs = list(checked_pairs(row, to_pair, counts))
        counts.read, counts.skipped = counts.read + 1, counts.skipped + (not pairs)
        for pair in pairs:
            filled = _EMPTY | {"where": where} | pair
            writer.write({column: filled[column] for column in _FEATURES})
            written += 1
    if not written:
        rows_of = f"all {counts.read} rows of {name} were skipped" if counts.read else f"{name} has no rows"
        raise UserError(f"data: {rows_of}")
    if counts.skipped:
        log.info("%s: %d of %d rows were skipped by the options of data.source.", name, counts.skipped, counts.read)
    writer.finalize()
    return Dataset.from_buffer(buffer.getvalue()) if file is None else Dataset.from_file(str(file)), counts


def checked_pairs(row: Any, to_pair: ToPair, counts: RowCounts) -> Iterator[dict[str, Any]]:
    """The checked pairs of a row; for an invalid pair, the reason."""
    if isinstance(row, str):
        yield {"invalid": row}
        return
    try:
        row = TrackedRow(row) if isinstance(row, dict) else row
        pairs = _as_list(to_pair(row))
    # `to_pair` is the user's code: any exception must be reported with the row, and not end the program.
    except Exception as error:
        yield {"invalid": reason_of(error, row if isinstance(row, Mapping) else {})}
        return
    checked = [_checked(pair) for pair in pairs]
    if isinstance(row, TrackedRow):
        # After the checks, which read the messages.
        unread = dict(row.unread())
        counts.columns.update(dict.keys(row))
        counts.ignored.update(unread.keys() if checked else ())
        if checked and (media := sorted(MEDIA & unread.keys())):
            checked = [{"invalid": f"the row has {media[0]} ({excerpt(unread[media[0]])}): only text is supported"}]
    yield from checked


def _checked(pair: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return checked_pair(pair)
    # Values may have any type, such as a date in a message, which JSON cannot represent.
    except Exception as error:
        return {"invalid": reason_of(error, pair)}


def _as_list(made: Any) -> list[Mapping[str, Any]]:
    pairs = [made] if isinstance(made, Mapping) or not isinstance(made, Iterable) else list(made)
    for pair in pairs:
        if not isinstance(pair, Mapping):
            expected = "a pair, a dict with chosen and rejected, or a list of pairs"
            raise InvalidRow(f"the source must return {expected}, not {type(pair).__name__}")
    return pairs
