"""A real Trainer on a module that logs what a test tells it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import lightning
import torch

from lightning_dpo.losses import DPO
from tests.support.training import trainer_for


class Scripted(lightning.LightningModule):
    """Logs the given metrics: in each validation, and at each optimizer step."""

    def __init__(self, validations: Sequence[Mapping[str, float]], steps: Sequence[Mapping[str, float]], loss) -> None:
        super().__init__()
        self.validations, self.steps, self.loss = list(validations), list(steps), loss
        self.weight = torch.nn.Parameter(torch.ones(()))

    def training_step(self, batch, batch_idx):
        if batch_idx < len(self.steps):
            self.log_dict(self.steps[batch_idx], batch_size=1)
        return self.weight.square()

    def validation_step(self, batch, batch_idx):
        pass

    def on_validation_epoch_end(self):
        self.log_dict(self.validations[self.current_epoch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit_scripted(folder: Path, callbacks, validations=({},), steps=({},), loss=None, **options) -> lightning.Trainer:
    """Train one epoch for each of `validations`, in which each of `steps` is one optimizer step."""
    trainer = trainer_for(folder, callbacks=list(callbacks), max_epochs=len(validations), **options)
    trainer.fit(Scripted(validations, steps, loss or DPO()), range(len(steps)), range(1))
    return trainer
