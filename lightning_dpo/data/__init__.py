"""Preference data: read, validated, tokenized, dealt into optimizer steps, laid out in batches."""

from lightning_dpo.data.datamodule import PreferenceDataModule

__all__ = ["PreferenceDataModule"]
