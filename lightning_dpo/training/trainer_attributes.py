"""Attributes of Lightning's Trainer that its class does not declare."""

from lightning import Callback, LightningDataModule, Trainer
from lightning.pytorch.profilers import Profiler


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """The Trainer's callbacks."""
    return trainer.callbacks  # type: ignore[attr-defined]  # set by a connector


def profiler_of(trainer: Trainer) -> Profiler:
    """The Trainer's profiler. The default one does nothing."""
    return trainer.profiler  # type: ignore[attr-defined]  # set by a connector


def datamodule_of(trainer: Trainer) -> LightningDataModule | None:
    """The data module that the Trainer was given, if any."""
    return getattr(trainer, "datamodule", None)


def loaders_of(trainer: Trainer) -> list[object]:
    """The loaders that have been created."""
    given = (
        trainer.train_dataloader, trainer.val_dataloaders, trainer.test_dataloaders, trainer.predict_dataloaders,
    )  # fmt: skip
    lists = [[*one.values()] if isinstance(one, dict) else one if isinstance(one, list) else [one] for one in given]
    return [loader for found in lists for loader in found if loader is not None]
