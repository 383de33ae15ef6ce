"""The best checkpoint of a run, and the last one, from which a run resumes."""

import logging
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint

from lightning_dpo.errors import UserError
from lightning_dpo.training.checkpoint_files import check_writable, keep_previous, write_atomically
from lightning_dpo.training.resume_points import after_validation, before_validation, between_steps
from lightning_dpo.training.stop_signals import Stopped, handling

log = logging.getLogger(__name__)


class BestCheckpoint(ModelCheckpoint):
    """Writes `best.ckpt` when a validation metric is the best so far and the KL from the reference is within a limit.

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


# Derives from Lightning's `Checkpoint`, because Lightning moves such callbacks to the end of the list.
class LastCheckpoint(Checkpoint):
    """Writes `last.ckpt`: during training, after every validation, at the end, and when the run is stopped.

    Lightning's `ModelCheckpoint(save_last=True)` saves only when its monitored metric improves. This callback saves the
    newest optimizer step, in the state between two steps, when no gradients are accumulated (see `resume_points.py`).
    The file that it replaces is kept as `last.previous.ckpt`. In the list of callbacks it must come after
    `BestCheckpoint`, because it saves the best score too.

    On one device, SIGTERM and SIGINT let the optimizer step finish, save, and raise `Stopped`; a second signal raises
    at once. An exception saves the last finished step. On several devices neither happens, because all devices would
    have to agree on the step.

    Args:
        folder: Folder of `last.ckpt`.
        every_n_steps: Optimizer steps between two checkpoints.
        every_minutes: Maximum number of minutes between two checkpoints.
    """

    def __init__(self, folder: str, every_n_steps: int = 100, every_minutes: float = 10) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps!r}")
        if not every_minutes > 0:
            raise ValueError(f"every_minutes must be positive, got {every_minutes!r}")
        self.path = Path(folder, "last.ckpt")
        self.every_n_steps, self.every_minutes = every_n_steps, every_minutes
        self._saved_step = self._step = 0
        self._saved_at = time.monotonic()
        self._loops: dict[str, Any] | None = None  # state of Lightning's loops for the checkpoint
        # A checkpoint is due; a file is being written; within a step; within an update of the weights; after a step,
        # when the next event is unknown; the validation of this step is over.
        self._due = self._saving = self._in_step = self._in_update = self._between = self._validated = False
        self._requested: int | None = None
        self._handlers = ExitStack()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the trainer write checkpoints atomically, and check that the folder is writable.

        Raises:
            UserError: It is not writable.
        """
        write_atomically(trainer)
        if stage == "fit" and trainer.is_global_zero:
            check_writable(self.path.parent, "callbacks.last.folder")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the step that the run starts from, and handle signals from now on."""
        self._saved_step = self._step = trainer.global_step
        self._saved_at, self._loops, self._requested = time.monotonic(), None, None
        self._due = self._in_step = self._in_update = self._between = False
        if trainer.world_size == 1:
            # Installed after Lightning's handlers, which only set a flag that Lightning checks in the middle of a step.
            self._handlers.enter_context(handling(self._signal))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Save the finished step if that is due. Not at its end, because a validation may follow and save as well."""
        if not self._in_step:
            if self._due:
                self._save(trainer)
            self._stop_if_requested()
        self._in_step, self._between = True, False

    def on_before_optimizer_step(self, *args: Any) -> None:
        """Record that the weights are about to change."""
        self._in_update = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """After an optimizer step, not after each micro-batch, record where the run would resume."""
        # Lightning calls this hook after every micro-batch.
        if trainer.global_step == self._step:
            return
        self._step, self._loops = trainer.global_step, between_steps(trainer)
        self._in_step = self._in_update = False
        self._validated, self._between = False, True  # a validation or a step follows
        # On several devices, the clock of rank 0 decides: devices that disagree would wait for each other forever.
        late = time.monotonic() - self._saved_at > 60 * self.every_minutes
        if trainer.world_size > 1:  # all devices must save together, and their clocks differ
            late = trainer.strategy.broadcast(late)
        self._due = self._due or late or self._step % self.every_n_steps == 0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop before a validation instead of after it."""
        self._between = False
        if self._training(trainer) and not self._in_step:
            self._stop_if_requested()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, including the best score that `BestCheckpoint` has just updated."""
        if not self._training(trainer):
            return
        if self._in_step:  # `val_check_interval` can split a step: save when the step is finished
            self._due = True
            return
        self._loops, self._validated = after_validation(trainer), True
        self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last step."""
        self._loops = None
        self._save(trainer)
        self._handlers.close()
        self._stop_if_requested()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save the last finished optimizer step, unless its weights have been changed since."""
        self._handlers.close()
        # A UserError is raised before the update. Any other exception may have interrupted the update.
        intact = not self._in_update or isinstance(exception, UserError)
        if trainer.world_size > 1 or self._loops is None or not intact:
            return
        if self._training(trainer) and trainer.validating and not self._in_step and not self._validated:
            self._loops = before_validation(trainer)  # the resumed run validates again
        try:
            self._save(trainer)
        except Exception:  # `exception` ends the run and must not be replaced
            log.exception("Step %d could not be saved.", self._step)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the recorded state of the loops, because their current state may be in the middle of a step."""
        if self._saving and self._loops is not None:
            checkpoint["loops"]["fit_loop"] = self._loops

    def _training(self, trainer: Trainer) -> bool:
        return trainer.state.fn == "fit" and not trainer.sanity_checking

    def _save(self, trainer: Trainer) -> None:
        self._due = False
        if self._step == self._saved_step:
            return
        self._saving = True  # a signal waits until the file is written
        try:
            for logger in trainer.loggers:  # a resumed run continues their files, which must be complete up to here
                logger.save()
            if trainer.is_global_zero:
                keep_previous(self.path)
            trainer.save_checkpoint(self.path, weights_only=False)
        finally:
            self._saving = False
        self._saved_step, self._saved_at = self._step, time.monotonic()

    def _signal(self, number: int) -> None:
        # During a step or while a file is written, only record the signal. A second signal stops at once.
        if self._requested is None and (self._in_step or self._between or self._saving):
            self._requested = number
        else:
            raise Stopped(number)

    def _stop_if_requested(self) -> None:
        if self._requested is not None:
            raise Stopped(self._requested)
