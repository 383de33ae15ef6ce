"""The checkpoint that a run goes on from."""

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer


class LastCheckpoint(Callback):
    """Writes `last.ckpt` every so many optimizer steps and at the end, whatever the validation metrics do.

    Lightning's `ModelCheckpoint(save_last=True)` follows its monitor: with a worsening metric, its last checkpoint is
    the best one. This one is taken between two optimizer steps, where no gradient is half accumulated.

    Args:
        folder: Where `last.ckpt` stands.
        every_n_steps: Optimizer steps from one to the next.
    """

    def __init__(self, folder: str, every_n_steps: int = 100) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps!r}")
        self.path = Path(folder, "last.ckpt")
        self.every_n_steps = every_n_steps
        self._saved_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do not write again what a resumed run comes from, in the middle of its next step."""
        self._saved_step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Save after an optimizer step, not after each of its micro-batches."""
        if trainer.global_step % self.every_n_steps == 0:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save where training ended."""
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if trainer.global_step != self._saved_step:
            trainer.save_checkpoint(self.path, weights_only=False)
            self._saved_step = trainer.global_step
