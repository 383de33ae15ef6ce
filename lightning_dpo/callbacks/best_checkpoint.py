"""The best checkpoint of a run."""

from typing import Literal

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_dpo.checkpoints.writing import write_atomically


class BestCheckpoint(ModelCheckpoint):
    """Writes `best.ckpt` when a validation metric is the best so far and the KL from the reference is within a limit.

    Of equal values, the last is kept: an accuracy on few pairs is often equal in several validations, and the first of
    them has trained least. The file contains the weights without the state of the optimizer, so it can be evaluated and
    exported, but not resumed.

    Args:
        folder: Folder of `best.ckpt`.
        monitor: Name of the metric.
        mode: `max` or `min`: which is better.
        max_kl: Maximum `val/kl`, in nats per answer, of a checkpoint; None: no limit.
    """

    def __init__(self, folder: str, monitor: str, mode: Literal["max", "min"], max_kl: float | None = None) -> None:
        super().__init__(
            dirpath=folder,
            filename="best",
            monitor=monitor,
            mode=mode,
            save_weights_only=True,
            enable_version_counter=False,
            # Lightning's default saves at the end of an epoch, bypassing the check of `val/kl` in `on_validation_end`.
            save_on_train_epoch_end=False,
        )
        self.max_kl = max_kl

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the trainer write checkpoints atomically."""
        super().setup(trainer, pl_module, stage)
        write_atomically(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if `val/kl` is within the limit."""
        kl = trainer.callback_metrics.get("val/kl")
        if self.max_kl is None or (kl is not None and float(kl) <= self.max_kl):
            super().on_validation_end(trainer, pl_module)

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Whether the metric is at least as good as the best so far."""
        best = self.best_model_score
        equal = current is not None and best is not None and bool(current == best.to(current.device))
        return equal or bool(super().check_monitor_top_k(trainer, current))
