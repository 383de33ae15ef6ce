"""Rows of a file, each with its line: .jsonl, .jsonl.gz, .json and .parquet."""

import gzip
import json
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet as parquet

from lightning_dpo.data.rows.arrow import from_arrow
from lightning_dpo.data.rows.pairs import Row
from lightning_dpo.data.rows.reasons import InvalidRow, excerpt, found
from lightning_dpo.errors import UserError

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet")
"""The formats of files with rows."""

_LONGEST_ROW = 64 << 20  # bytes
_NOT_AN_OBJECT = "the row must be a JSON object, not {}"


def read_rows(path: str | Path) -> Iterator[Row]:
    """The rows of a file, in order.

    Rows of .jsonl and .jsonl.gz are named by line; those of a .json file, which is one list of objects, and of a
    .parquet table are counted from 1. A line that is not a row is returned as the reason.

    Raises:
        UserError: The file does not exist, its format is not supported, or a .json file is not a list.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; data.path and data.val_path name files of pairs")
    if not path.is_file():
        raise UserError(
            f"{path}: the file does not exist; data.path and data.val_path name files of pairs, and data=hub data.name "
            "(in Python: rows=HubRows(...)) a dataset on the hub"
        )
    suffixes = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    readers = dict(zip(SUFFIXES, (_lines, _lines, _list, _table), strict=True))
    if suffixes not in readers:
        raise UserError(f"{path}: a file of pairs must end in {', '.join(readers)}")
    return readers[suffixes](path)


def _lines(path: Path) -> Iterator[Row]:
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        try:
            for number, line in enumerate(iter(partial(file.readline, _LONGEST_ROW), b""), 1):
                if len(line) == _LONGEST_ROW:  # a small compressed file can become larger than the memory
                    raise UserError(f"{path.name}:{number}: the row is longer than {_LONGEST_ROW >> 20} MB")
                # The first line may begin with a byte order mark. Empty lines, such as the last one, are not rows.
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if not line.strip():
                    continue
                # An array as the first line; a complete one in a line of its own is only an invalid row.
                if number == 1 and line.lstrip().startswith(b"[") and (line.strip() == b"[" or _is_list(line)):
                    raise UserError(f"{path}: the file is one JSON list, not a row per line; rename it to .json")
                yield f"{path.name}:{number}", _parsed(line)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path}: the file is damaged ({error})") from error


def _parsed(line: bytes) -> dict[str, Any] | str:
    try:
        row = json.loads(line.decode("utf-8"), object_pairs_hook=_each_key_once)
    except UnicodeDecodeError:
        return "the line is not valid UTF-8"
    except InvalidRow as reason:
        return str(reason)
    except RecursionError:
        return "the line is nested too deeply"
    except ValueError:
        return "the line is not valid JSON"
    return row if isinstance(row, dict) else _NOT_AN_OBJECT.format(found(row))


def _is_list(line: bytes) -> bool:
    """Whether a line is a list of objects, or the start of one."""
    return line.lstrip()[1:].lstrip().startswith(b"{")


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Python itself would silently keep the last of two equal keys."""
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidRow(f"the key {excerpt(twice)} occurs twice in an object")
    return row


def _list(path: Path) -> Iterator[Row]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = json.loads(text, object_pairs_hook=_each_key_once)
    except InvalidRow as reason:
        raise UserError(f"{path}: {reason}") from reason
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            raise UserError(
                f"{path}: the file has a row per line, and is not one JSON list; rename it to .jsonl"
            ) from error
        raise UserError(f"{path}: not JSON ({error})") from error
    if not isinstance(rows, list):
        raise UserError(f"{path}: a .json file must be one list of rows; rename it to .jsonl if it has a row per line")
    for number, row in enumerate(rows, 1):
        yield f"{path.name}:{number}", row if isinstance(row, dict) else _NOT_AN_OBJECT.format(found(row))


def _table(path: Path) -> Iterator[Row]:
    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            for row in _rows_of(batch):
                number += 1
                yield f"{path.name}:{number}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: the file is damaged ({error})") from error


def _rows_of(batch: pyarrow.RecordBatch) -> Iterator[dict[str, Any] | str]:
    try:
        yield from map(from_arrow, batch.to_pylist())
    except UnicodeDecodeError:  # Parquet does not check its strings: find the rows that are not valid
        for index in range(len(batch)):
            try:
                (row,) = batch.slice(index, 1).to_pylist()
            except UnicodeDecodeError:
                yield "a text of the row is not valid UTF-8"
            else:
                yield from_arrow(row)
