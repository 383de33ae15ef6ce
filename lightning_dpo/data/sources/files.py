"""Rows of a file, each with its place: .jsonl, .jsonl.gz, .json and .parquet."""

import gzip
import json
import logging
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet as parquet

from lightning_dpo.data.rows.pairs import Row
from lightning_dpo.errors import UserError

log = logging.getLogger(__name__)


def read_rows(path: str | Path) -> Iterator[Row]:
    """The rows of a file, in order.

    A .json file is one list of objects, a .parquet file a table; their places are counted in rows from 1, those of
    .jsonl and .jsonl.gz in lines. What is no row is given as the reason: `bad_utf8`, `bad_json` or `wrong_type`.

    Raises:
        UserError: There is no such file, or its format is not known, or a .json file is not a list.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; data.path and data.val_path name files of pairs")
    suffixes = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    readers = {".jsonl": _lines, ".jsonl.gz": _lines, ".json": _list, ".parquet": _table}
    if suffixes not in readers:
        raise UserError(f"{path}: a file of pairs must end in {', '.join(readers)}")
    return readers[suffixes](path)


def kept_rows(rows: Iterable[Row], wanted: Callable[[dict[str, Any]], bool], option: str) -> Iterator[Row]:
    """Yield the rows that `wanted` accepts, and log how many were skipped. Validation reports malformed rows."""
    left_out = 0
    for where, row in rows:
        try:
            keep = isinstance(row, str) or wanted(row)
        except (KeyError, TypeError) as error:
            keep, row = True, f"missing_field {error}" if isinstance(error, KeyError) else "wrong_type"
        if keep:
            yield where, row
        left_out += not keep
    log.info("data.source.%s: %d rows were not taken.", option, left_out)


def _lines(path: Path) -> Iterator[Row]:
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        try:
            for number, line in enumerate(file, 1):
                # A byte order mark may stand at the very start; a last, empty line is no row.
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if line.strip():
                    yield f"{path.name}:{number}", _parsed(line)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path}: the file is damaged ({error})") from error


def _parsed(line: bytes) -> dict[str, Any] | str:
    try:
        row = json.loads(line.decode("utf-8"), object_pairs_hook=_each_key_once)
    except UnicodeDecodeError:
        return "bad_utf8"
    except ValueError:
        return "bad_json"
    return row if isinstance(row, dict) else "wrong_type"


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, which Python would read with the last of two equal keys."""
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a key stands there twice")
    return row


def _list(path: Path) -> Iterator[Row]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    if not isinstance(rows, list):
        raise UserError(f"{path}: a .json file must be one list of rows; write .jsonl for one row per line")
    for number, row in enumerate(rows, 1):
        yield f"{path.name}:{number}", row if isinstance(row, dict) else "wrong_type"


def _table(path: Path) -> Iterator[Row]:
    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield f"{path.name}:{number}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: the file is damaged ({error})") from error
