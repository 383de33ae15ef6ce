"""How fast training goes, what it wastes, and how much of the machine it uses."""

import resource
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_dpo.batch import PreferenceBatch
from lightning_dpo.training.flops import MatrixWork, matrix_rate
from lightning_dpo.training.precision import compute_dtype
from lightning_dpo.training.step_timer import part_times_of

if TYPE_CHECKING:
    from lightning_dpo.module import DPOModule

_METRICS = ("pairs_per_second", "tokens_per_second", "padding_fraction", "matrix_rate_share", "peak_memory_gb")


class Throughput(Callback):
    """Logs of each optimizer step, for all devices together where nothing else is said.

    - `train/pairs_per_second` and `train/tokens_per_second`. A token is one position that went through the policy,
      pads included; the reference's are not counted again. Time is wall-clock time from one optimizer step to the
      next, so data loading and logging are in it, validation is not.
    - `train/padding_fraction`: the share of those positions, on this device, that are pads.
    - `train/matrix_rate_share`: what the step's matrix products come to, on this device, over what it could have
      multiplied in that time; the rate of large square matrices is measured once, at the start.
    - `train/peak_memory_gb`: the most memory that this device, or on a CPU this process, has held, in 10⁹ bytes.
    - `train/seconds/...`, with the profiler `PartTimes`: how long its parts took on this device.

    Attributes:
        rate: Operations per second of large square matrix products, once training has begun.
    """

    def __init__(self) -> None:
        self._paused = 0.0
        self._kept: dict[str, float] = {}
        self.rate = 0.0
        self._real: Tensor | None = None
        self._passes: list[Callable[[PreferenceBatch], float]] = []
        self._restart()

    def metric_names(self, pl_module: LightningModule) -> set[str]:
        """The metrics that this callback logs, those of the profiler aside."""
        return {f"train/{name}" for name in _METRICS}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the rate of matrix products, and look at what a step multiplies."""
        self.rate = matrix_rate(trainer.strategy.root_device, compute_dtype(str(trainer.precision)))
        module = cast("DPOModule", pl_module)
        policy, reference = MatrixWork(module.policy), module.reference
        self._passes = [policy.forward, policy.backward]
        if reference and reference.answers:
            self._passes.append((MatrixWork(reference.model) if reference.model else policy).forward)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count."""
        self._restart()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: PreferenceBatch, batch_idx: int
    ) -> None:
        """Count a micro-batch; log at the end of a step."""
        self._tokens += batch.input_ids.numel()
        # On the device: reading it would wait for the step.
        self._real = batch.tokens if self._real is None else self._real + batch.tokens
        self._flops += sum(one(batch) for one in self._passes)
        if (batch_idx + 1) % trainer.accumulate_grad_batches and not trainer.is_last_batch:
            return
        seconds = time.perf_counter() - self._start
        measured = (
            # step_pairs is of all devices; tokens are this device's, and the others have about as many.
            float(batch.step_pairs) / seconds,
            self._tokens * trainer.world_size / seconds,
            1 - float(self._real) / self._tokens,
            self._flops / seconds / self.rate,
            peak_memory(trainer.strategy.root_device) / 1e9,
        )
        values = dict(zip(_METRICS, measured, strict=True))
        if (timer := part_times_of(trainer)) is not None:
            values |= {f"seconds/{part}": spent for part, spent in timer.take().items()}
        named = {f"train/{name}": value for name, value in values.items()}
        pl_module.log_dict(named, on_step=True, batch_size=1)
        self._restart()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._paused = time.perf_counter()
        if (timer := part_times_of(trainer)) is not None:
            self._kept = timer.take()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let it go on as if there had been no validation."""
        self._start += time.perf_counter() - self._paused
        if (timer := part_times_of(trainer)) is not None:
            timer.seconds = self._kept

    def _restart(self) -> None:
        self._start, self._tokens, self._flops, self._real = time.perf_counter(), 0, 0.0, None


def peak_memory(device: torch.device) -> int:
    """Bytes that `device`, or on a CPU this process, has held at most."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
