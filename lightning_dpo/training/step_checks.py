"""What is checked in every optimizer step of a fit, before weights change."""

from collections.abc import Callable

import torch
from lightning import Trainer
from torch import Tensor

from lightning_dpo.batch import PreferenceBatch
from lightning_dpo.losses import PairLogps, PreferenceLoss, PreferenceLossFunction
from lightning_dpo.models.reference import Reference
from lightning_dpo.training.rank_checks import check_dealt
from lightning_dpo.training.start_checks import StepRecord, check_finite, check_start
from lightning_dpo.training.trainer_attributes import datamodule_of


class StepChecks:
    """The right pairs on every device, the right start, and finite numbers.

    Args:
        function: The loss.
    """

    def __init__(self, function: PreferenceLossFunction) -> None:
        self._function = function
        self._record = StepRecord()
        self._dealt = False

    def new_fit(self) -> None:
        """Forget an earlier fit."""
        self._record.clear()
        self._dealt = False

    def check_micro_batch(
        self,
        trainer: Trainer,
        batch: PreferenceBatch,
        reference: Reference | None,
        logps: PairLogps,
        loss: PreferenceLoss,
    ) -> None:
        """Check a micro-batch and remember it for `check_update`. Called on all devices at once.

        Raises:
            UserError: Two devices have the same pairs, or before the first update the policy is not its reference.
        """
        if not self._dealt:
            check_dealt(batch, trainer.strategy, trainer.global_rank)
            self._dealt = True
        if trainer.global_step == 0 and reference is not None and reference.starts_equal:
            check_start(self._function, loss, logps, batch, str(trainer.precision), where(trainer))
        self._record.add(batch, loss)

    def check_update(self, trainer: Trainer, norm: Tensor) -> None:
        """Check the gradient of the step. Called on all devices at once.

        Args:
            trainer: The Trainer.
            norm: The gradient's norm over all parameters. Shape: ().

        Raises:
            UserError: A loss or the gradient is not finite.
        """
        # With fp16, the loss scaler skips an update whose gradients are infinite, and then scales less.
        scaled = trainer.precision == "16-mixed"
        check_finite(torch.zeros_like(norm) if scaled else norm, self._record, where(trainer))
        self._record.clear()


def where(trainer: Trainer) -> Callable[[int], str]:
    """Names a training pair by its row: `file:line` if the data module knows it."""
    return getattr(datamodule_of(trainer), "place", "row {}".format)
