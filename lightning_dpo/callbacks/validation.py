"""When a run validates: before the first step, and then in optimizer steps."""

import math
import sys

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping

from lightning_dpo.errors import UserError
from lightning_dpo.training.trainer_attributes import callbacks_of

_PER_RUN = 4
_NEVER = sys.maxsize


class ValidationSchedule(Callback):
    """Validates before the first step, at regular intervals, and after the last step.

    Lightning's `val_check_interval` counts micro-batches, and can validate within an optimizer step.

    Args:
        every_n_steps: Optimizer steps between two validations; None: four validations in a run, or one per epoch if its
            length is not known.
    """

    def __init__(self, every_n_steps: int | None = None) -> None:
        if every_n_steps is not None and not (isinstance(every_n_steps, int) and every_n_steps >= 1):
            raise ValueError(f"every_n_steps must be an integer of at least 1, got {every_n_steps!r}")
        self.every_n_steps = every_n_steps
        self._steps: float = math.inf  # of the run
        self._step = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that Lightning's own settings do not set another schedule.

        `ModelCheckpoint` and `EarlyStopping` then act after each validation, and not at the end of each epoch.

        Raises:
            UserError: They do.
        """
        if trainer.val_check_interval != 1.0 or trainer.check_val_every_n_epoch not in (1, None):
            raise UserError(
                "val_check_interval and check_val_every_n_epoch have no effect with ValidationSchedule: use its "
                "every_n_steps, or remove the callback"
            )
        trainer.check_val_every_n_epoch = None  # they read it, some only now
        for callback in callbacks_of(trainer):
            if isinstance(callback, EarlyStopping):  # it has read it, if it is before this callback
                callback._check_on_train_epoch_end = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute the length of the run. A run that resumes may have to repeat a validation."""
        self._steps, self._step = float(trainer.estimated_stepping_batches), trainer.global_step
        self._set(trainer, self._is_due(self._step))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate before the first step. Not earlier: all other callbacks have been started by now."""
        if (
            trainer.enable_validation
            and trainer.global_step == 0
            and trainer.fit_loop.epoch_loop.batch_progress.total.ready == 0
        ):
            validate(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        """After an optimizer step, decide whether Lightning validates next."""
        finished, self._step = trainer.global_step != self._step, trainer.global_step
        # Without the number of steps, once per epoch.
        ends = trainer.is_last_batch and self.every_n_steps is None and math.isinf(self._steps)
        self._set(trainer, finished and (ends or self._is_due(self._step)))

    def _is_due(self, step: int) -> bool:
        if step == self._steps:
            return True
        if self.every_n_steps is not None:
            return step % self.every_n_steps == 0
        return math.isfinite(self._steps) and step in {round(self._steps * i / _PER_RUN) for i in range(_PER_RUN)}

    @staticmethod
    def _set(trainer: Trainer, due: bool) -> None:
        # Lightning validates if the number of the micro-batch is a multiple of this.
        trainer.val_check_batch = 1 if due else _NEVER


def validate(trainer: Trainer) -> None:
    """Validate within `fit`, outside of Lightning's schedule, in the way in which its training loop does."""
    first = trainer._logger_connector._first_loop_iter
    trainer.validating = True
    try:
        trainer.fit_loop.epoch_loop.val_loop.run()
    finally:
        trainer.training = True
        trainer._logger_connector._first_loop_iter = first
