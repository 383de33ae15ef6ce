"""An estimate of a step's memory before the first step, and advice after an out-of-memory error."""

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
    gigabytes,
)

if TYPE_CHECKING:
    from lightning_dpo.module import DPOModule

log = logging.getLogger(__name__)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` means that the device or the machine is out of memory."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


class MemoryCheck(Callback):
    """Logs an estimate of the memory of a step, rejects what cannot fit, and adds advice to out-of-memory errors."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Estimate. The layout of batches is known by now.

        Raises:
            UserError: Weights, gradients, optimizer state and reference do not fit into the device's memory.
        """
        needed, device = self._estimate(trainer, pl_module), trainer.strategy.root_device
        available = device_memory(device)
        log.info("Memory estimate: %s; %s of %s.", needed, gigabytes(needed.total), gigabytes(available))
        # A CPU can swap.
        if needed.certain > available and device.type == "cuda":
            raise UserError(
                f"the device has {gigabytes(available)}, and training needs {needed}: "
                f"set {self._advice(needed, trainer)}"
            )
        if needed.total > available:
            log.warning(
                "A step might not fit into memory. These settings reduce it most: %s.", self._advice(needed, trainer)
            )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Add the estimate and advice to an out-of-memory error."""
        if is_out_of_memory(exception) and cast("DPOModule", pl_module).policy is not None:
            needed = self._estimate(trainer, pl_module)
            exception.add_note(
                f"the device is out of memory (estimate: {needed}); these settings reduce it most: "
                f"{self._advice(needed, trainer)}"
            )

    def _estimate(self, trainer: Trainer, pl_module: LightningModule) -> MemoryEstimate:
        module = cast("DPOModule", pl_module)
        return module.estimate_memory(*PreferenceDataModule.of(trainer, self).largest_batch())

    def _advice(self, needed: MemoryEstimate, trainer: Trainer) -> str:
        module = cast("DPOModule", trainer.lightning_module)
        checkpointing = checkpoints_activations(module.policy)
        adapter = any(not parameter.requires_grad for parameter in module.policy.parameters())
        return needed.advice(PreferenceDataModule.of(trainer, self).batch_size, checkpointing, adapter)
