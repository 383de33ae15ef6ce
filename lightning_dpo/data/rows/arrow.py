"""Rows of Arrow tables, which give every object the fields of all rows."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import pyarrow as pa
from datasets import Dataset


def values_of(pairs: Dataset, column: str) -> Iterator[Any]:
    """The values of a column, a thousand rows at a time: one by one takes 50 times as long, and all at once memory."""
    for batch in pairs.select_columns([column]).iter(1000):
        yield from cast(dict[str, list[Any]], batch)[column]


def columns_of(pairs: Dataset, rows: Sequence[int]) -> dict[str, list[Any]]:
    """The values of some rows by column. `pairs` must have the format `arrow`."""
    # datasets returns a table with a chunk per row. Converting each chunk would take ten times as long.
    return cast(pa.Table, pairs[list(rows)]).combine_chunks().to_pydict()


def from_arrow(row: dict[str, Any]) -> dict[str, Any]:
    """A row without the null fields within its columns. A null in a table cannot be told from an absent field.

    >>> from_arrow({"a": {"b": None, "c": [1]}, "d": None})
    {'a': {'c': [1]}, 'd': None}
    """
    return {name: _without_null(value) for name, value in row.items()}


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_null(inner) for name, inner in value.items() if inner is not None}
    return [_without_null(inner) for inner in value] if isinstance(value, list) else value
