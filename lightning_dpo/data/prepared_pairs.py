"""Prepared pairs, and their record on disk, from which a later run opens them without reading rows or tokenizing."""

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import numpy as np
from datasets import Dataset, concatenate_datasets
from safetensors.numpy import load_file, save_file

from lightning_dpo.data.rows.pairs import NUMBERS
from lightning_dpo.data.tokens.digests import pairs_digest
from lightning_dpo.data.tokens.lengths import PairLengths, with_numbers
from lightning_dpo.errors import LoggedWarning
from lightning_dpo.run_folder import atomic_folder

_PACKAGE = "lightning_dpo"
_DAY = 86_400  # seconds


@dataclass(frozen=True)
class PreparedPairs:
    """Tokenized pairs.

    Args:
        tokens: The pairs of all sources and splits, with those that are not used.
        source: Index of each pair's source in `sources`.
        rows: Rows of `tokens`: `train`, `val` in a fixed random order in which every prefix has each source in
            proportion, and `overlong`, the training pairs that were removed.
        sources: Names of the sources.
        counts: Numbers of pairs that were kept, removed and truncated.
        ignored: Number of rows with a value in each column or field that is not in the tokens.
        invalid: Location and reason of the rows that were removed.
        messages: Warnings that were logged.
    """

    tokens: Dataset
    source: Sequence[int]
    rows: dict[str, np.ndarray]
    sources: list[str]
    counts: dict[str, int]
    ignored: dict[str, int] = field(default_factory=dict)
    invalid: list[dict[str, str]] = field(default_factory=list)
    messages: list[LoggedWarning] = field(default_factory=list)

    @cached_property
    def train(self) -> Dataset:
        """The training pairs. Their column `source` is an index into `sources`."""
        return self._every.select(self.rows["train"])

    @cached_property
    def val(self) -> Dataset:
        """The validation pairs."""
        return self._every.select(self.rows["val"])

    @cached_property
    def overlong(self) -> Dataset:
        """Training pairs that were removed."""
        return self._every.select(self.rows["overlong"])

    @cached_property
    def _every(self) -> Dataset:
        return with_numbers(self.tokens.remove_columns("source"), self.lengths, self.source)

    @cached_property
    def lengths(self) -> PairLengths:
        """The lengths of `tokens`."""
        return PairLengths.of(self.tokens)

    @cached_property
    def columns(self) -> frozenset[str]:
        """Numeric columns in which a training pair has a value with an effect."""
        return frozenset(name for name, neutral in NUMBERS.items() if set(self.train[name][:]) - {neutral})

    @cached_property
    def facts(self) -> dict[str, str]:
        """What identifies the training pairs: their number, and the digest of their tokens."""
        return {"training pairs": str(len(self.train)), "set of training pairs (sha256)": pairs_digest(self.train)}


_PLAIN = ("sources", "counts", "ignored", "invalid", "messages")


def write_record(prepared: PreparedPairs, key: str) -> None:
    """Write the record of prepared pairs. Their tokens stay in the files of the tokenization."""
    files = [file["filename"] for file in prepared.tokens.cache_files]
    with atomic_folder(_record(key)) as folder:
        facts = {"files": files, "facts": prepared.facts, "columns": sorted(prepared.columns)}
        facts |= {name: getattr(prepared, name) for name in _PLAIN}
        (folder / "prepared.json").write_text(json.dumps(facts), encoding="utf-8")
        save_file({**prepared.rows, "source": np.array(prepared.source)}, folder / "rows.safetensors")
        save_file(asdict(prepared.lengths), folder / "lengths.safetensors")


def opened_record(key: str) -> PreparedPairs | None:
    """The prepared pairs with this key; None if they were not recorded, or their tokens were deleted."""
    path = _record(key) / "prepared.json"
    if not path.exists():
        return None
    about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if not all(Path(file).exists() for file in about["files"]):
        return None
    tokens = concatenate_datasets([Dataset.from_file(file) for file in about["files"]])
    rows = load_file(path.with_name("rows.safetensors"))
    source = rows.pop("source").tolist()
    prepared = PreparedPairs(tokens, source, rows, **{name: about[name] for name in _PLAIN})
    # Computed when they were saved, from all pairs.
    lengths = PairLengths(**load_file(path.with_name("lengths.safetensors")))
    vars(prepared).update(facts=about["facts"], columns=frozenset(about["columns"]), lengths=lengths)
    return prepared


def cache_folder() -> Path:
    """The folder of tokens and records."""
    folder = Path(datasets.config.HF_DATASETS_CACHE, _PACKAGE)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _record(key: str) -> Path:
    return cache_folder() / f"prepared-{key}"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Context that returns a folder for rows until they are tokenized. Those of killed programs are removed."""
    for old in cache_folder().glob("rows-*"):
        if time.time() - old.stat().st_mtime > _DAY:
            shutil.rmtree(old, ignore_errors=True)
    with TemporaryDirectory(prefix="rows-", dir=cache_folder(), ignore_cleanup_errors=True) as folder:
        yield Path(folder)
