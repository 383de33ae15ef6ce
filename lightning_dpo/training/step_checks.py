"""What is checked in every optimizer step of a fit, before weights change."""

from collections.abc import Callable

import torch
from lightning import Trainer
from torch import Tensor

from lightning_dpo.batch import PreferenceBatch
from lightning_dpo.errors import UserError
from lightning_dpo.losses import NotComputed, PairLogps, PreferenceLoss, PreferenceLossFunction
from lightning_dpo.models.reference import Reference
from lightning_dpo.training.rank_checks import check_dealt, named, of_all_devices, on_all_devices
from lightning_dpo.training.start_checks import check_start
from lightning_dpo.training.trainer_attributes import datamodule_of


def check_declared(function: object) -> None:
    """Check what can be known of a loss before any data or model is read.

    Raises:
        UserError: It is not a loss, or it declares rewards and does not define them.
    """
    if not isinstance(function, PreferenceLossFunction):
        raise UserError(f"loss={function!r} must be an instance of PreferenceLossFunction, for example DPO(beta=0.1)")
    name = type(function).__name__
    if function.has_rewards and type(function).rewards is PreferenceLossFunction.rewards:
        raise UserError(f"loss: {name} does not define rewards(): define it, or set has_rewards = False in the class")


def checked_loss(function: PreferenceLossFunction, pairs: PairLogps) -> PreferenceLoss:
    """Call `function` and check what it returns.

    Raises:
        UserError: It does not return one value per pair, or reads what it does not declare.
    """
    name = type(function).__name__
    try:
        loss = function(pairs)
    except (NotComputed, NotImplementedError) as error:
        raise UserError(f"loss: {name}: {error}") from error
    values = {"losses()": loss.losses, "rewards()": loss.chosen_rewards, "rewards() ": loss.rejected_rewards}
    for method, value in values.items():
        if value is not None and (not isinstance(value, Tensor) or value.shape != pairs.chosen.shape):
            shape = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise UserError(
                f"loss: {name}.{method.strip()} must return one value per pair, shape {tuple(pairs.chosen.shape)}, not "
                f"a mean over them; it returned {shape}"
            )
    return loss


class StepRecord:
    """The pairs of the optimizer step in progress and their losses, so that a bad one can be named."""

    def __init__(self) -> None:
        self._pairs: list[Tensor] = []
        self._losses: list[Tensor] = []

    def add(self, batch: PreferenceBatch, loss: PreferenceLoss) -> None:
        """Remember a micro-batch."""
        self._pairs.append(batch.pair_index)
        self._losses.append(loss.losses.detach())

    def clear(self) -> None:
        """Forget the step."""
        self._pairs.clear()
        self._losses.clear()

    def finite(self) -> Tensor:
        """Whether every loss is finite. Shape: (), bool."""
        return torch.cat(self._losses).isfinite().all()

    def non_finite(self) -> list[int]:
        """Rows of the pairs whose loss is not finite."""
        return torch.cat(self._pairs)[~torch.cat(self._losses).isfinite()].tolist()

    def all(self) -> list[int]:
        """Rows of all pairs of the step."""
        return torch.cat(self._pairs).tolist()


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

    def check_batch(self, trainer: Trainer, batch: PreferenceBatch) -> None:
        """Check the first micro-batch of a fit, before its forward pass. Called on all devices at once.

        Raises:
            UserError: Two devices have the same pairs.
        """
        if not self._dealt:
            check_dealt(batch, trainer.strategy, trainer.global_rank)
            self._dealt = True

    def check_loss(
        self,
        trainer: Trainer,
        batch: PreferenceBatch,
        reference: Reference | None,
        logps: PairLogps,
        loss: PreferenceLoss,
    ) -> None:
        """Check a micro-batch and remember it for `check_update`. Called on all devices at once.

        Raises:
            UserError: Before the first update the policy is not its reference.
        """
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


def check_finite(norm: Tensor, record: StepRecord, place: Callable[[int], str]) -> None:
    """Stop before the update when a loss or the gradient of the step is not finite: on all devices, or on none.

    Args:
        norm: The gradient's norm over all parameters.
        record: The step's pairs.
        place: Names a row, for the message.

    Raises:
        UserError: It is not finite; the message names the pairs.
    """
    finite = norm.isfinite() & record.finite().to(norm.device)
    if on_all_devices(finite):
        return
    bad, every = of_all_devices(record.non_finite()), of_all_devices(record.all())
    what = f"the loss of {named(bad, place)}" if bad else f"the gradient of {named(every, place)}"
    raise UserError(
        f"{what} is not finite, so the update was not made and the last checkpoint is whole. Likely causes: a learning "
        "rate that is too large, fp16 (use bf16-mixed or 32-true), or a broken row"
    )


def where(trainer: Trainer) -> Callable[[int], str]:
    """Names a training pair by its row: `file:line` if the data module knows it."""
    return getattr(datamodule_of(trainer), "place", "row {}".format)
