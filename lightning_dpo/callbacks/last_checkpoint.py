"""The last checkpoint of a run, from which it resumes, and the handling of signals that stop it."""

import logging
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from lightning_dpo.callbacks.lightning_signals import forward_to_children, replace_handlers
from lightning_dpo.checkpoints.random_state import restore
from lightning_dpo.checkpoints.resume_points import ResumePoint, after_validation, before_validation, between_steps
from lightning_dpo.checkpoints.writing import check_writable, keep_previous, write_atomically
from lightning_dpo.errors import UserError
from lightning_dpo.training.blocked import deferred
from lightning_dpo.training.checkpoint_space import check_space
from lightning_dpo.training.step_checks import check_weights
from lightning_dpo.training.stop_requests import StopRequest
from lightning_dpo.training.stop_signals import Stopped, handling

log = logging.getLogger(__name__)

# torchrun and SLURM may both send the same signal. A second one counts only if it is sent later than this.
_REPEATED = 2.0  # seconds
_RANDOM, _METRICS = "random_states", "callback_metrics"


# Derives from Lightning's `Checkpoint`, because Lightning moves such callbacks to the end of the list.
class LastCheckpoint(Checkpoint):
    """Writes `last.ckpt`: during training, after every validation, at the end, and when the run is stopped.

    Lightning's `ModelCheckpoint(save_last=True)` saves only when its monitored metric improves. This callback saves the
    newest optimizer step, in the state between two steps, when no gradients are accumulated (see `resume_points.py`),
    and the state of the random number generators of every rank. In the list of callbacks it must come after
    `BestCheckpoint`, because it saves the best score too.

    SIGTERM, SIGINT, SIGUSR1 and SIGHUP let the optimizer step finish, save, and raise `Stopped`. It is sufficient that
    one rank receives the signal: all ranks stop after the same step. A second signal, more than two seconds later,
    raises at once. On one device, an exception saves the last finished step.

    Args:
        folder: Folder of `last.ckpt`.
        every_n_steps: Optimizer steps between two checkpoints.
        every_minutes: Maximum number of minutes between two checkpoints.
        keep: Number of earlier checkpoints to keep: `last.previous.ckpt`, `last.previous2.ckpt`, ...
    """

    best_model_path = ""  # Lightning reads it from the first callback of this kind

    def __init__(self, folder: str, every_n_steps: int = 100, every_minutes: float = 10, keep: int = 1) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps!r}")
        if not every_minutes > 0:
            raise ValueError(f"every_minutes must be positive, got {every_minutes!r}")
        if keep < 0:
            raise ValueError(f"keep must not be negative, got {keep!r}")
        self.path = Path(folder, "last.ckpt")
        self.every_n_steps, self.every_minutes, self.keep = every_n_steps, every_minutes, keep
        self._saved_step = self._step = 0
        self._saved_at = self._signalled_at = time.monotonic()
        self._point: ResumePoint | None = None  # None: the current state
        # A checkpoint is due; a file is being written; within a step; within an update of the weights; after a step,
        # when the next event is unknown; the validation of this step is over; between the first step and the last.
        self._due = self._saving = self._in_step = self._in_update = self._between = self._validated = False
        self._stop = StopRequest()
        self._ranks = 0  # that train; 0 before and after training
        self._handlers = ExitStack()
        self._resumed: dict[str, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the trainer write checkpoints atomically, check that the folder is writable, and handle signals.

        Raises:
            UserError: It is not writable.
        """
        write_atomically(trainer)
        if stage == "fit":
            if trainer.is_global_zero:
                check_writable(self.path.parent, "callbacks.last.folder")
            self._ranks, self._resumed = 0, {}
            replace_handlers(trainer)
            self._handlers.enter_context(handling(self._signal))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep what is restored later: random states before the first step, and metrics at the end."""
        self._resumed = {name: checkpoint[name] for name in (_RANDOM, _METRICS) if name in checkpoint}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the step that the run starts from, and check that the checkpoints fit on the disk.

        Raises:
            UserError: They do not.
        """
        self._saved_step = self._step = trainer.global_step
        self._saved_at, self._point = time.monotonic(), None
        self._due = self._in_step = self._in_update = self._between = False
        self._stop.connect(trainer.world_size)
        self._ranks = trainer.world_size
        deferred.set()
        problem = check_space(pl_module, self.path.parent, self.keep) if trainer.is_global_zero else ""
        if self._stop.exchange(bool(problem)):  # otherwise, the other ranks would wait for this one
            raise UserError(problem or f"{self.path.parent}: the checkpoints do not fit on the disk of the first rank")
        # As late as possible, because preparation draws random numbers, and a run without interruption does not.
        states = self._resumed.get(_RANDOM, [])
        if trainer.global_rank < len(states):
            restore(states[trainer.global_rank])

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Save the finished step if that is due. Not at its end, because a validation may follow and save as well."""
        if not self._in_step:
            if self._due:
                self._save(trainer)
            self._stop_if_requested(trainer)
        self._in_step, self._between = True, False

    def on_before_optimizer_step(self, *args: Any) -> None:
        """Record that the weights are about to change."""
        self._in_update = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """After an optimizer step, not after each micro-batch, record where the run would resume."""
        # Lightning calls this hook after every micro-batch.
        if trainer.global_step == self._step:
            return
        self._step, self._point = trainer.global_step, between_steps(trainer)
        self._in_step = self._in_update = False
        self._validated, self._between = False, True  # a validation or a step follows
        # All ranks must save together, and their clocks differ.
        late = self._stop.exchange(time.monotonic() - self._saved_at > 60 * self.every_minutes)
        self._due = self._due or late or self._step % self.every_n_steps == 0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop before a validation instead of after it."""
        self._between = False
        if self._training(trainer) and not self._in_step:
            self._stop_if_requested(trainer)

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """On several ranks, stop within a validation. On one, the handler itself does."""
        if self._training(trainer) and not self._in_step and self._ranks > 1:
            self._stop.exchange()
            self._stop_if_requested(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, including the best score that `BestCheckpoint` has just updated."""
        if not self._training(trainer) or not self._step:  # before the first step, there is nothing to save
            return
        if self._in_step:  # `val_check_interval` can split a step: save when the step is finished
            self._due = True
            return
        self._point, self._validated = after_validation(trainer), True
        self._saved_step = -1  # what was saved of this step, if anything, is the state before its validation
        self._save(trainer)
        self._stop.exchange()  # answers may have been sampled for a long time

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last step."""
        # A run that ended within an epoch resumes there: Lightning has counted the whole epoch by now.
        if trainer.is_last_batch:
            self._point = None
        self._save(trainer)
        self._stop.exchange()
        self._close_handlers()
        self._stop_if_requested(trainer)
        self._ranks = 0

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore metrics that this run did not log, because the checkpoint was written after the last step."""
        self._close_handlers()  # without a step, `on_train_end` is not called
        for name, value in self._resumed.get(_METRICS, {}).items():
            trainer.callback_metrics.setdefault(name, torch.tensor(value, dtype=torch.float64))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the signal handlers, also after a tuner has ended `fit`."""
        self._close_handlers()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save the last finished optimizer step, unless its weights have been changed since."""
        self._close_handlers()
        if isinstance(exception, Stopped) and not self._ranks:
            forward_to_children(trainer, exception.signal)
        # The checks of `DPOModule` raise a UserError before the update. Others may have interrupted the update.
        before = isinstance(exception, UserError) and trainer.global_step == self._step
        intact = not self._in_update or before
        # On several ranks, all have saved together, or one of them failed.
        if self._ranks == 1 and self._point is not None and intact:
            try:
                self._save_point(trainer)
            except Exception as error:  # `exception` ends the run and must not be replaced
                log.error("Step %d was not saved: %s", self._step, error)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the recorded state of the loops, because their current state may be in the middle of a step."""
        if not self._saving:
            return
        point = self._point or between_steps(trainer)
        checkpoint["loops"]["fit_loop"] = point.loops
        checkpoint[_RANDOM] = self._stop.gathered(point.random)
        checkpoint[_METRICS] = {name: float(value) for name, value in trainer.callback_metrics.items()}

    def _close_handlers(self) -> None:
        self._handlers.close()
        deferred.clear()

    def _training(self, trainer: Trainer) -> bool:
        return trainer.state.fn == "fit" and not trainer.sanity_checking

    def _save(self, trainer: Trainer) -> None:
        self._due = False
        if self._step == self._saved_step:
            return
        check_weights(trainer.lightning_module, self._step)
        self._saving = True  # a signal waits until the file is written
        try:
            for logger in trainer.loggers:  # a resumed run continues their files, which must be complete up to here
                logger.save()
            if trainer.is_global_zero:
                keep_previous(self.path, self.keep)
            trainer.save_checkpoint(self.path, weights_only=False)
        finally:
            self._saving = False
        self._saved_step, self._saved_at = self._step, time.monotonic()

    def _save_point(self, trainer: Trainer) -> None:
        if self._training(trainer) and trainer.validating and not self._in_step and not self._validated:
            self._point = before_validation(trainer, cast(ResumePoint, self._point))  # the resumed run validates again
        self._save(trainer)

    def _signal(self, number: int) -> None:
        # During a step or while a file is written, and on several ranks always, only record the signal.
        waits = self._in_step or self._between or self._saving or self._ranks > 1
        repeated = self._stop.received is not None
        if waits and repeated and time.monotonic() - self._signalled_at < _REPEATED:
            return
        if not waits or repeated:
            raise Stopped(number)
        self._stop.received, self._signalled_at = number, time.monotonic()

    def _stop_if_requested(self, trainer: Trainer) -> None:
        if (number := self._stop.number) is not None:
            if self._ranks > 1 and self._point is not None:  # on one rank, `on_exception` saves
                self._save_point(trainer)
            raise Stopped(number)
