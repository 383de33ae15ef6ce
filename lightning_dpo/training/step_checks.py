"""Checks of the loss and of every optimizer step, before weights change."""

from collections.abc import Callable

import torch
from lightning import Trainer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

from lightning_dpo.batch import PreferenceBatch
from lightning_dpo.errors import UserError
from lightning_dpo.losses import PairLogps, PreferenceLoss, PreferenceLossFunction
from lightning_dpo.models.reference import Reference
from lightning_dpo.training.rank_checks import check_dealt, named, of_all_devices, on_all_devices
from lightning_dpo.training.start_checks import check_start, check_step_pairs
from lightning_dpo.training.trainer_attributes import datamodule_of


class StepRecord:
    """The pairs and losses of the current optimizer step, so that an error can name the pairs."""

    def __init__(self) -> None:
        self._pairs: list[Tensor] = []
        self._losses: list[Tensor] = []

    def add(self, batch: PreferenceBatch, loss: PreferenceLoss) -> None:
        """Add a micro-batch."""
        self._pairs.append(batch.pair_index)
        self._losses.append(loss.losses.detach())

    def clear(self) -> None:
        """Start a new step."""
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
    """Checks in `fit`: different pairs on every device, a policy that starts at its reference, and finite numbers.

    Args:
        function: The loss.

    Attributes:
        updated: Whether the weights have been updated: in this `fit`, in an earlier one, or in a loaded checkpoint.
    """

    def __init__(self, function: PreferenceLossFunction) -> None:
        self._function = function
        self._record = StepRecord()
        self._dealt = False
        self.updated = False

    def new_fit(self) -> None:
        """Reset the state of an earlier `fit`."""
        self._record.clear()
        self._dealt = False

    def check_batch(self, trainer: Trainer, batch: PreferenceBatch) -> None:
        """Check the first micro-batch of `fit` before its forward pass. A collective call.

        Raises:
            UserError: Two devices have the same pairs, or the batches of another loader have another number of pairs
                per step than the Trainer.
        """
        if self._dealt or not isinstance(batch, PreferenceBatch):  # `forward` rejects other batches
            return
        check_dealt(batch, trainer.strategy, trainer.global_rank)
        if isinstance(trainer.train_dataloader, DataLoader):  # not the loader of `PreferenceDataModule`
            check_step_pairs(batch, trainer.accumulate_grad_batches * trainer.world_size)
        self._dealt = True

    def check_loss(
        self,
        trainer: Trainer,
        batch: PreferenceBatch,
        reference: Reference | None,
        logps: PairLogps,
        loss: PreferenceLoss,
        loss_of: Callable[[PairLogps], PreferenceLoss],
    ) -> None:
        """Check a micro-batch and record it for `check_update`. A collective call.

        Raises:
            UserError: Before the first update of the module, the policy differs from its reference.
        """
        if not self.updated and reference is not None and reference.starts_equal:
            check_start(self._function, loss_of, loss, logps, batch, str(trainer.precision), where(trainer))
        self._record.add(batch, loss)

    def check_update(self, trainer: Trainer, norm: Tensor) -> None:
        """Check the gradient of the step. A collective call.

        Args:
            trainer: The Trainer.
            norm: Norm of the gradient of all parameters. Shape: ().

        Raises:
            UserError: A loss or the gradient is not finite.
        """
        # With fp16, infinite gradients are expected: the loss scaler skips the update and reduces the scale.
        scaled = trainer.precision == "16-mixed"
        check_finite(torch.zeros_like(norm) if scaled else norm, self._record, where(trainer))
        self.updated = True
        self._record.clear()


def check_finite(norm: Tensor, record: StepRecord, place: Callable[[int], str]) -> None:
    """Stop before the update if a loss or the gradient is not finite: on all devices, or on none.

    Args:
        norm: Norm of the gradient of all parameters.
        record: The pairs of the step.
        place: Returns the location of a row, for the message.

    Raises:
        UserError: It is not finite; the message contains the pairs.
    """
    finite = norm.isfinite() & record.finite().to(norm.device)
    if on_all_devices(finite):
        return
    bad, every = of_all_devices(record.non_finite()), of_all_devices(record.all())
    what = f"the loss of {named(bad, place)}" if bad else f"the gradient of the step ({named(every, place, most=8)})"
    raise UserError(
        f"{what} is not finite, so the update was not applied. Likely causes: too large a learning rate, fp16 (use "
        "bf16-mixed or 32-true), or a corrupt row"
    )


def check_weights(module: nn.Module, step: int) -> None:
    """Check before a validation and before a checkpoint that all trained weights are finite. A collective call.

    Raises:
        UserError: They are not, on any device.
    """
    trained = [parameter.detach() for parameter in module.parameters() if parameter.requires_grad]
    here = [value.to_local() if isinstance(value, DTensor) else value for value in trained]
    ranges = [torch.stack(value.aminmax()).float() for value in here if value.numel()]
    device = here[0].device if here else torch.device("cpu")
    finite = torch.cat(ranges).isfinite().all() if ranges else torch.ones((), dtype=torch.bool, device=device)
    if not on_all_devices(finite):
        raise UserError(
            f"the weights are not finite after optimizer step {step}, so they are not saved. Likely causes: too large "
            "a learning rate, or a damaged checkpoint"
        )


def where(trainer: Trainer) -> Callable[[int], str]:
    """A function that returns the location of a training pair by its row: `file:line` if the data module knows it."""
    return getattr(datamodule_of(trainer), "place", "row {}".format)
