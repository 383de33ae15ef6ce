"""Pairs and tokens per second."""

import time
from typing import Any

from lightning import Callback, LightningModule, Trainer

from lightning_dpo.batch import PreferenceBatch


class Throughput(Callback):
    """Logs `train/pairs_per_second` and `train/tokens_per_second` of each optimizer step, all devices together.

    A token is one position that went through the policy, pads included; the reference's are not counted again. Time is
    wall-clock time from one optimizer step to the next, so data loading and logging are in it, validation is not.
    """

    def __init__(self) -> None:
        self._start = 0.0
        self._paused = 0.0
        self._tokens = 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count."""
        self._restart()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: PreferenceBatch, batch_idx: int
    ) -> None:
        """Count a micro-batch; log at the end of a step."""
        self._tokens += batch.input_ids.numel()
        if (batch_idx + 1) % trainer.accumulate_grad_batches and not trainer.is_last_batch:
            return
        seconds = time.perf_counter() - self._start
        rates = {
            # step_pairs is of all devices; tokens are this device's, and the others have about as many.
            "train/pairs_per_second": float(batch.step_pairs) / seconds,
            "train/tokens_per_second": self._tokens * trainer.world_size / seconds,
        }
        pl_module.log_dict(rates, on_step=True, batch_size=1)
        self._restart()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let it go on as if there had been no validation."""
        self._start += time.perf_counter() - self._paused

    def _restart(self) -> None:
        self._start, self._tokens = time.perf_counter(), 0
