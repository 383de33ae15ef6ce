"""The sources of a mixture: where the rows of each come from, and how one becomes a pair."""

import inspect
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard, cast

from datasets import Dataset, IterableDataset

from lightning_dpo.data.rows.arrow import from_arrow
from lightning_dpo.data.rows.pairs import NUMBERS, Row, Rows, ToPair
from lightning_dpo.data.rows.reading import RowCounts, to_pairs
from lightning_dpo.data.sources.files import read_rows
from lightning_dpo.data.sources.hub import HubRows
from lightning_dpo.errors import UserError

# Options of this package's sources that name a column which a row may lack.
_OPTIONAL = frozenset({"prompt", "query", "system", "source"})


_SPLITS = {"train", "validation", "test"}

_InMemory: TypeAlias = Dataset | IterableDataset | Sequence[Mapping[str, object]]
RowsOfSource: TypeAlias = Rows | _InMemory | Mapping[str, _InMemory] | None
"""A function of the split, the rows of `train`, or the rows by split, as in a `DatasetDict`."""
RowsArgument: TypeAlias = RowsOfSource | Mapping[str, RowsOfSource]
"""The same, or for a mixture by dataset."""


@dataclass(frozen=True)
class Part:
    """One source of a mixture.

    Args:
        to_pair: Converts a row to a pair.
        rows: Rows by split, read if `path` is None.
        path: A file of training pairs.
        val_path: A file of validation pairs; None: the validation split of `rows`, or a fraction of the training pairs.
        weight: 0.5 uses half of its training pairs, 2 uses each pair twice.
    """

    to_pair: ToPair
    rows: Rows | None = None
    path: str | None = None
    val_path: str | None = None
    weight: float = 1.0

    @property
    def columns(self) -> frozenset[str]:
        """Numeric columns that the options of `to_pair` map, as `partial(jsonl_pair, offset="gap")` does."""
        # Configs create a functools.partial. A column that a function adds itself is known only after reading.
        options = getattr(self.to_pair, "keywords", {})
        columns = options.get("columns") or {}
        if unknown := [name for name in columns if name not in NUMBERS]:
            raise UserError(f"data.source.columns: {unknown[0]!r} is not a numeric column: {', '.join(NUMBERS)}")
        return frozenset(name for name in NUMBERS if options.get(name, columns.get(name)) is not None)

    def read(self, split: str, name: str, file: Path | None = None) -> tuple[Dataset, RowCounts] | None:
        """The pairs of `train` or `validation`, invalid ones marked; None if the source does not have the split.

        Args:
            split: `train` or `validation`.
            name: Name of the source in a mixture.
            file: Where the pairs are stored while they are used; None: in memory.

        Raises:
            UserError: The training data are missing or cannot be read, or no row has a column that an option names.
        """
        path = self.path if split == "train" else self.val_path
        if path is not None:
            return self._pairs(read_rows(path), str(path), name, file)
        rows = None if self.rows is None or self.path is not None else self.rows(split)
        if rows is None:
            if split == "train":
                key = f"data.path.{name}" if name else "data.path"
                raise UserError(
                    f"{key} is not set: set it to a .jsonl, .jsonl.gz, .json or .parquet file; in Python, rows= takes "
                    "data in memory"
                )
            return None
        location = self.rows.location(split) if isinstance(self.rows, HubRows) else f"{name} {split}".lstrip()
        if isinstance(rows, Dataset | IterableDataset):
            rows = map(from_arrow, cast(Iterable[dict[str, Any]], rows))
        return self._pairs(((f"{location}:{number}", row) for number, row in enumerate(rows)), location, name, file)

    def _pairs(self, rows: Iterable[Row], location: str, name: str, file: Path | None) -> tuple[Dataset, RowCounts]:
        pairs, counts = to_pairs(rows, self.to_pair, location, file)
        of_ours = getattr(self.to_pair, "func", self.to_pair).__module__.startswith("lightning_dpo.")
        options = getattr(self.to_pair, "keywords", {}) if of_ours else {}
        for option in _OPTIONAL & options.keys():
            column = options[option]
            if option == "prompt" == column:  # the default, which dialogues do not need
                continue
            if column and counts.columns and not {column, column.partition(".")[0]} & counts.columns:
                key = ".".join(filter(None, ("data.source", name, option)))
                there = ", ".join(sorted(counts.columns))
                raise UserError(f"{key}={column}: no row of {location} has this column; there are {there}")
        return pairs, counts


def _is_mixture(rows: RowsArgument) -> TypeGuard[Mapping[str, RowsOfSource]]:
    return isinstance(rows, Mapping) and not rows.keys() <= _SPLITS


def _rows(rows: RowsOfSource) -> Rows | None:
    """A function of the split, for rows that are in memory."""
    if rows is None:
        return None
    if callable(rows):
        try:
            inspect.signature(rows).bind("train")
        except TypeError as error:
            raise UserError(f"rows={rows!r} must be a function of the split, train or validation") from error
        return rows
    by_split = dict(rows) if isinstance(rows, Mapping) else {"train": rows}
    if "train" not in by_split:
        raise UserError(f"rows has no split train; it has {', '.join(map(str, by_split))}")
    if "test" in by_split and "validation" not in by_split:
        raise UserError("rows has a split test that would not be read: name it validation, or leave it out")
    for split, given in by_split.items():
        if not isinstance(given, Dataset | IterableDataset):
            by_split[split] = _listed(given)
    return lambda split: cast(Iterable[dict[str, Any]] | None, by_split.get(split))


def _listed(rows: Any) -> list[Mapping[str, Any]]:
    """Rows as a list: an iterator could be read only once."""
    listed = list(rows) if isinstance(rows, Iterable) and not isinstance(rows, str | bytes) else None
    others = [type(row).__name__ for row in listed or () if not isinstance(row, Mapping)]
    if listed is None or others:
        given = f"{type(rows).__name__}{f' of {others[0]}' if others else ''}"
        raise UserError(
            f"rows is a {given}, and must be a list of dicts, a datasets.Dataset (Dataset.from_pandas(...)), a dict of "
            "these by split, or a function of the split; the name of a file is passed as path="
        )
    return listed


def parts_of(
    source: ToPair | Mapping[str, ToPair],
    rows: RowsArgument,
    sources: Mapping[str, float] | None,
    path: str | Mapping[str, str] | None,
    val_path: str | Mapping[str, str] | None,
) -> dict[str, Part]:
    """The sources by name; a single source has the name "".

    Raises:
        UserError: A name, a weight or a file does not belong to a source, or a path is not the name of a file.
    """
    for key, value in {"path": path, "val_path": val_path}.items():
        if value is not None and not isinstance(value, str | os.PathLike | Mapping):
            raise UserError(f"data.{key} must be the name of a file: pass rows that are in memory as rows=")
    if path is not None and rows is not None and not callable(rows) and not _is_mixture(rows):
        raise UserError("path and rows are both given, and only one of them is read: pass one")
    rows = {name: _rows(one) for name, one in rows.items()} if _is_mixture(rows) else _rows(rows)
    if isinstance(rows, Mapping) and not isinstance(source, Mapping):
        source = dict.fromkeys(rows, source)
    if not isinstance(source, Mapping):
        if sources is not None:
            raise UserError("data.sources needs several datasets, and there is only one: use data=mixture")
        for key, value in {"path": path, "val_path": val_path}.items():
            if isinstance(value, Mapping):
                raise UserError(
                    f"data.{key}={dict(value)} needs several datasets, and there is only one: set a file name"
                )
        return {"": Part(source, cast(Rows | None, rows), cast(str | None, path), cast(str | None, val_path))}
    sources = dict.fromkeys(source, 1.0) if sources is None else sources
    if not sources:
        raise UserError(f"data.sources is empty: name one or more of {', '.join(source)}")
    given = {"rows": rows or {}, "path": path or {}, "val_path": val_path or {}}
    for key, names in {"sources": sources, **given}.items():
        known = sources if key in ("path", "val_path") else source
        if not isinstance(names, Mapping) or not set(names) <= set(known):
            raise UserError(f"data.{key}={names}: its keys must be names of sources: {', '.join(known)}")
    for name, weight in sources.items():
        if not 0 < weight < float("inf"):
            raise UserError(f"data.sources.{name}={weight} must be a positive number: how often its pairs are repeated")
    of = cast(dict[str, Mapping[str, Any]], given)
    return {
        name: Part(source[name], of["rows"].get(name), of["path"].get(name), of["val_path"].get(name), weight)
        for name, weight in sources.items()
    }
