"""Limits of the Trainer, in whole optimizer steps: the sampler decides which pairs are in a step, and nothing else."""

from collections.abc import Sized
from math import ceil, isinf
from typing import Any, cast

from lightning import Callback, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, GradientAccumulationScheduler, StochasticWeightAveraging
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

from lightning_dpo.errors import UserError
from lightning_dpo.losses import PreferenceLossFunction
from lightning_dpo.training.trainer_attributes import callbacks_of, datamodule_of
from lightning_dpo.training.trainer_settings import DERIVED


def check_limits(trainer: Trainer) -> None:
    """Check, before a model is opened, that the Trainer's settings do not split or enlarge steps.

    `fast_dev_run=n` then means n optimizer steps. With `batch_size=auto`, this is repeated when the size is chosen.

    Raises:
        UserError: A setting does; the message contains the alternative.
    """
    settings, data = cast(Any, trainer), cast(Any, datamodule_of(trainer))  # the class does not declare them
    ours = hasattr(data, "preparation")
    if ours and settings.overfit_batches:
        raise UserError(f"trainer.overfit_batches {DERIVED['overfit_batches']}")
    if fast := settings.fast_dev_run:
        trainer.limit_train_batches = int(fast) * trainer.accumulate_grad_batches
    elif ours and data.prepared is not None and isinstance(trainer.limit_train_batches, int):
        batches = len(data.train_pairs) // (data.batch_size * trainer.world_size)
        # With `auto`, the size is not known yet, and `check_epoch` checks the limit.
        if trainer.limit_train_batches < batches and not data.auto_batch_size:
            _check_multiple(trainer, trainer.limit_train_batches)
    for callback in callbacks_of(trainer):
        _check_callback(callback, trainer)
    if trainer.lightning_module is not None:  # the command calls this before the module exists
        _check_whole_step(settings.lightning_module.loss, trainer)


def _check_callback(callback: Callback, trainer: Trainer) -> None:
    if isinstance(callback, GradientAccumulationScheduler):
        raise UserError(
            "GradientAccumulationScheduler changes the number of pairs in an optimizer step during the run, and the "
            "loss is divided by this number: set data.pairs_per_step, or pairs_per_step of PreferenceDataModule"
        )
    if isinstance(callback, StochasticWeightAveraging):
        copied = cast(Any, callback)._average_model
        if copied is not None and not list(copied.named_parameters()):
            raise UserError(
                "StochasticWeightAveraging copies the module before fit() opens the policy: call "
                "module.configure_model() before fit()"
            )
    if isinstance(callback, BatchSizeFinder) and getattr(datamodule_of(trainer), "pairs_per_step", None) is not None:
        raise UserError(
            "the batch-size finder would change the number of pairs in an optimizer step, which pairs_per_step sets: "
            "use batch_size='auto'"
        )


def _check_whole_step(loss: PreferenceLossFunction, trainer: Trainer) -> None:
    """Check that a loss over the whole step receives all pairs of a device at once."""
    if not loss.whole_step or trainer.accumulate_grad_batches == 1:
        return
    data = cast(Any, datamodule_of(trainer))
    if hasattr(data, "auto_batch_size"):
        advice = f"set data.batch_size={data.batch_size * trainer.accumulate_grad_batches}, or a smaller pairs_per_step"
    else:
        advice = "set accumulate_grad_batches=1"
    raise UserError(
        f"loss: {type(loss).__name__} compares the pairs of an optimizer step with each other, and a step has "
        f"{trainer.accumulate_grad_batches} micro-batches: {advice}"
    )


def check_epoch(trainer: Trainer, resumed: bool) -> None:
    """Check, when the training loader exists, that no epoch ends within a step, and that no pairs are skipped.

    Args:
        trainer: The Trainer.
        resumed: Whether this `fit` resumes from a checkpoint.

    Raises:
        UserError: `limit_train_batches` splits a step, or the checkpoint was written after `fit` had ended within an
            epoch: Lightning then continues with the next epoch.
    """
    loader, batches = trainer.train_dataloader, trainer.num_training_batches
    if isinf(batches) or not isinstance(loader, Sized):
        return
    if batches < len(loader):  # otherwise, the last step of the data may be smaller
        _check_multiple(trainer, int(batches))
    per_epoch = ceil(batches / trainer.accumulate_grad_batches)
    trained = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    before = trainer.current_epoch * per_epoch
    # After the last batch of an epoch, Lightning may have counted the epoch already, and still have the batch.
    positions = [before + ceil(trained / trainer.accumulate_grad_batches), before if trained == batches else -1]
    if resumed and trainer.global_step not in positions:
        raise UserError(
            f"the checkpoint has {trainer.global_step} optimizer steps, which do not end where this run would "
            "continue: it was written with another limit_train_batches, or after fit() had ended within an epoch, and "
            "the rest of that epoch would be skipped; resume from the last.ckpt of the callback LastCheckpoint"
        )


def _check_multiple(trainer: Trainer, batches: int) -> None:
    accumulate = trainer.accumulate_grad_batches
    if batches % accumulate:
        below, above = batches // accumulate * accumulate, (batches // accumulate + 1) * accumulate
        values = f"{below} or {above}" if below else str(above)
        raise UserError(
            f"trainer.limit_train_batches={trainer.limit_train_batches} ends an epoch within an optimizer step of "
            f"{accumulate} micro-batches: set it to {values}, or limit the run with trainer.max_steps"
        )


class StopBetweenSteps:
    """Delays a request to stop, such as that of `max_time`, to the end of the optimizer step."""

    def __init__(self) -> None:
        self._requested = False

    def on_batch_end(self, trainer: Trainer, batch_idx: int) -> None:
        """Withdraw a request within a step, and repeat it at the end of the step."""
        ends = trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if ends:
            trainer.should_stop = trainer.should_stop or self._requested
            self._requested = False
        elif trainer.should_stop:
            trainer.should_stop, self._requested = False, True


def check_strategy(trainer: Trainer) -> None:
    """Check that trained weights are not lost with the processes of the strategy.

    Raises:
        UserError: The strategy trains in child processes that end with `fit`.
    """
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        raise UserError(
            "trainer.strategy is ddp_spawn, ddp_fork or ddp_notebook, whose processes end with fit(), and the trained "
            "weights with them: run a script with ddp or fsdp, or train on one device"
        )
