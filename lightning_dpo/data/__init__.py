"""Preference data: reading, validation, tokenization, and batches for optimizer steps."""

from lightning_dpo.data.collator import PreferenceCollator
from lightning_dpo.data.datamodule import PreferenceDataModule

__all__ = ["PreferenceCollator", "PreferenceDataModule"]
