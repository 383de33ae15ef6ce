"""Rows of a dataset on the Hugging Face hub."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from datasets import Dataset, load_dataset

from lightning_dpo.data.rows.arrow import from_arrow
from lightning_dpo.errors import UserError

NO_SPLIT = "no such split"
"""The digest of a split that does not exist."""


@dataclass(frozen=True)
class HubRows:
    """The rows of a dataset on the hub, by split.

    Args:
        name: Id of the dataset, such as `Anthropic/hh-rlhf`.
        train: Name of the training split on the hub.
        validation: Name of the validation split on the hub; None: it has none, and a fraction of the training pairs is
            held out.
        config: Configuration of the dataset; None: its default.
        folder: Folder of the dataset; None: all of it.
        max_rows: Number of rows to read from the start of a split, without downloading the rest; None: all.
    """

    name: str
    train: str = "train"
    validation: str | None = None
    config: str | None = None
    folder: str | None = None
    max_rows: int | None = None

    def __call__(self, split: str) -> Iterable[dict[str, Any]] | None:
        """The rows of `train` or `validation`; None if the hub has no such split.

        Raises:
            UserError: The dataset cannot be loaded.
        """
        hub_split = {"train": self.train, "validation": self.validation}[split]
        if hub_split is None:
            return None
        streaming = self.max_rows is not None
        try:
            rows = load_dataset(self.name, self.config, data_dir=self.folder, split=hub_split, streaming=streaming)
        except Exception as error:
            # What an unreachable hub raises depends on the cache, the network and the version of datasets.
            raise UserError(
                f"data.rows: {self.name} cannot be loaded ({type(error).__name__}: {error}); without network access, "
                "set data.path to a file with the same columns"
            ) from error
        return map(from_arrow, islice(rows, self.max_rows)) if streaming else rows

    def digest(self, split: str) -> str | None:
        """What identifies the rows of a split: the fingerprint of the dataset; None if it is read as a stream."""
        rows = self(split)
        if rows is None:
            return NO_SPLIT
        return rows._fingerprint if isinstance(rows, Dataset) else None

    def location(self, split: str) -> str:
        """The hub's name of a split, for messages: `Anthropic/hh-rlhf[test]`."""
        return f"{self.name}[{ {'train': self.train, 'validation': self.validation}[split] }]"
