"""Rows that record which of their columns a source reads."""

from collections.abc import Iterator
from typing import Any


class TrackedRow(dict[str, Any]):
    """A row, or an object within it, that records which of its fields are read.

    A source that iterates over the row reads all of its fields.
    """

    def __init__(self, row: dict[str, Any]) -> None:
        super().__init__({name: tracked(value) for name, value in row.items()})
        self._read: set[str] = set()

    def unread(self) -> Iterator[tuple[str, Any]]:
        """Name and value of each field that has a value and was not read; fields of objects as `column.field`."""
        for name, value in super().items():
            if name not in self._read:
                if value not in (None, "", [], {}, [None]):
                    yield name, value
                continue
            for inner in value if isinstance(value, list) else [value]:
                if isinstance(inner, TrackedRow):
                    yield from ((f"{name}.{field}", of) for field, of in inner.unread())

    def __getitem__(self, name: str) -> Any:
        self._read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """As `dict.get`."""
        self._read.add(name)
        return super().get(name, default)

    def __iter__(self) -> Iterator[str]:
        self._read.update(super().keys())
        return super().__iter__()

    def keys(self) -> Any:
        """As `dict.keys`."""
        self._read.update(super().keys())
        return super().keys()

    def values(self) -> Any:
        """As `dict.values`."""
        self._read.update(super().keys())
        return super().values()

    def items(self) -> Any:
        """As `dict.items`."""
        self._read.update(super().keys())
        return super().items()

    def __or__(self, other: Any) -> dict[str, Any]:  # type: ignore[override]  # dict has overloads
        return dict(self.items()) | other


def tracked(value: Any) -> Any:
    """`value` with a `TrackedRow` in place of each object."""
    if isinstance(value, dict):
        return TrackedRow(value)
    return [tracked(inner) for inner in value] if isinstance(value, list) else value
