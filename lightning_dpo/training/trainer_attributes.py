"""Attributes of Lightning's Trainer that its class does not declare."""

from lightning import Callback, LightningDataModule, Trainer
from lightning.pytorch.profilers import Profiler


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """The Trainer's callbacks."""
    return trainer.callbacks  # type: ignore[attr-defined]  # set by a connector


def profiler_of(trainer: Trainer) -> Profiler:
    """The Trainer's profiler; one that does nothing by default."""
    return trainer.profiler  # type: ignore[attr-defined]  # set by a connector


def datamodule_of(trainer: Trainer) -> LightningDataModule | None:
    """The data module that the Trainer was given, if any."""
    return getattr(trainer, "datamodule", None)
