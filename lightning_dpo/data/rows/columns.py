"""Values of columns by name, which may be a path into objects."""

from typing import Any


def value_of(row: dict[str, Any], column: str) -> Any:
    """The value of a column, or of a field within it: `response.text`. A column with this whole name takes precedence.

    >>> value_of({"response": {"text": "Hi"}}, "response.text")
    'Hi'

    Raises:
        KeyError: The row does not have it.
    """
    if column in row or "." not in column:
        return row[column]
    value: Any = row
    for name in column.split("."):
        if not isinstance(value, dict) or name not in value:
            raise KeyError(column)
        value = value[name]
    return value


def optional(row: dict[str, Any], column: str | None) -> Any:
    """The value of a column that a row may lack; None for null, a missing column, and no column."""
    try:
        return None if column is None else value_of(row, column)
    except KeyError:
        return None
