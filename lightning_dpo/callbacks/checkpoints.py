"""The checkpoint that a run goes on from, and the best one."""

from pathlib import Path
from typing import Any, Literal

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


class BestCheckpoint(ModelCheckpoint):
    """Writes `best.ckpt` where a validation metric is better than ever, as long as the policy stays near its reference.

    Args:
        folder: Where `best.ckpt` stands.
        monitor: The metric.
        mode: `max` or `min`: which is better.
        max_kl: `val/kl`, in nats per answer, beyond which no checkpoint is taken; None: however far.
    """

    def __init__(self, folder: str, monitor: str, mode: Literal["max", "min"], max_kl: float | None = None) -> None:
        super().__init__(dirpath=folder, filename="best", monitor=monitor, mode=mode, enable_version_counter=False)
        self.max_kl = max_kl

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save within the budget alone."""
        kl = trainer.callback_metrics.get("val/kl")
        if self.max_kl is None or (kl is not None and float(kl) <= self.max_kl):
            super().on_validation_end(trainer, pl_module)


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
