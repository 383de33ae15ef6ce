"""A data module that prepares its pairs once: access to the pairs and to what is known of them."""

from datasets import Dataset
from lightning import LightningDataModule

from lightning_dpo.data.preparation import Preparation
from lightning_dpo.data.prepared_pairs import PreparedPairs
from lightning_dpo.errors import UserError


class PreparedDataModule(LightningDataModule):
    """Prepared pairs, without the loaders of `PreferenceDataModule`.

    Attributes:
        preparation: Prepares the pairs.
        prepared: The prepared pairs; None before `prepare`.
    """

    def __init__(self, preparation: Preparation) -> None:
        super().__init__()
        self.preparation = preparation
        self.prepared: PreparedPairs | None = None
        self._validation_only = False

    def prepare(self, validation_only: bool) -> bool:
        """Read and tokenize, unless this has been done.

        Args:
            validation_only: Whether training pairs are not needed.

        Returns:
            Whether `pairs` has changed.
        """
        if self.prepared is not None and (validation_only or not self._validation_only):
            return False
        self.prepared, self._validation_only = self.preparation(validation_only), validation_only
        return True

    @property
    def pairs(self) -> PreparedPairs:
        """The prepared pairs; raises UserError before `setup`."""
        if self.prepared is None:
            raise UserError("the data module has no pairs yet: call setup('fit') first")
        return self.prepared

    @property
    def train_pairs(self) -> Dataset:
        """The tokenized training pairs, after `setup`."""
        return self.pairs.train

    @property
    def val_pairs(self) -> Dataset:
        """The tokenized validation pairs in the order of validation, after `setup`."""
        return self.pairs.val

    @property
    def sources(self) -> list[str]:
        """Names of the sources, by index."""
        return self.pairs.sources

    @property
    def columns(self) -> frozenset[str]:
        """Numeric columns that the sources map; after `setup`, those with values that have an effect."""
        return self.preparation.columns if self.prepared is None else self.prepared.columns

    @property
    def messages(self) -> bool:
        """Whether the validation pairs are messages, and not text, after `setup`."""
        return "chat" in self.val_pairs.column_names and any(self.val_pairs["chat"][:])

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of pairs that were kept, removed and truncated."""
        return self.pairs.counts

    def place(self, row: int) -> str:
        """Location of a training pair: `file:line`, or its row in the source."""
        return self.train_pairs["where"][row]
