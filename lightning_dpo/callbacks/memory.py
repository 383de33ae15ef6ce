"""Tells before the first step whether the device has the memory for it, and after a crash what would have helped."""

import logging
from typing import TYPE_CHECKING, cast

import torch
from lightning import Callback, LightningModule, Trainer

from lightning_dpo.data.datamodule import PreferenceDataModule
from lightning_dpo.errors import UserError
from lightning_dpo.training.memory_estimate import (
    MemoryEstimate,
    checkpoints_activations,
    device_memory,
    estimate,
    gigabytes,
)

if TYPE_CHECKING:
    from lightning_dpo.module import DPOModule

log = logging.getLogger(__name__)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that a device, or the machine, has no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


class MemoryCheck(Callback):
    """Logs an estimate of the memory that a step needs; refuses what cannot fit; explains an out-of-memory error."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Estimate, once the layout of batches is chosen.

        Raises:
            UserError: Weights, gradients, optimizer and reference alone are more than the device has.
        """
        needed, device = self._estimate(trainer, pl_module), trainer.strategy.root_device
        there = device_memory(device)
        log.info("Memory, estimated: %s; %s of the device's %s.", needed, gigabytes(needed.total), gigabytes(there))
        # On the CPU, the system may make room.
        if needed.certain > there and device.type == "cuda":
            raise UserError(
                f"the device has {gigabytes(there)}, and {needed} are needed: set {self._advice(needed, trainer)}"
            )
        if needed.total > there:
            log.warning("A step may not fit into memory; what helps most: %s.", self._advice(needed, trainer))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Add to an out-of-memory error what was needed, and what helps."""
        if is_out_of_memory(exception) and cast("DPOModule", pl_module).policy is not None:
            needed = self._estimate(trainer, pl_module)
            exception.add_note(
                f"the device is out of memory (estimated: {needed}); what helps most: {self._advice(needed, trainer)}"
            )

    def _estimate(self, trainer: Trainer, pl_module: LightningModule) -> MemoryEstimate:
        module = cast("DPOModule", pl_module)
        tokens, scored = PreferenceDataModule.of(trainer, self).largest_batch()
        precision = str(trainer.precision)
        itemsize = 2 if "16" in precision else torch.get_default_dtype().itemsize
        return estimate(module.policy, module.reference, module.make_optimizer, tokens, scored, itemsize)

    def _advice(self, needed: MemoryEstimate, trainer: Trainer) -> str:
        module = cast("DPOModule", trainer.lightning_module)
        checkpointing = checkpoints_activations(module.policy)
        adapter = any(not parameter.requires_grad for parameter in module.policy.parameters())
        return needed.advice(PreferenceDataModule.of(trainer, self).batch_size, checkpointing, adapter)
