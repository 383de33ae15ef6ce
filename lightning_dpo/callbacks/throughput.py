"""Throughput of training, share of padding, and utilization of the device."""

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import psutil
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_dpo.batch import PreferenceBatch
from lightning_dpo.training.flops import MatrixWork, matrix_rate, peak_rate
from lightning_dpo.training.precision import compute_dtype
from lightning_dpo.training.step_timer import part_times_of
from lightning_dpo.training.trainer_attributes import datamodule_of

if TYPE_CHECKING:
    from lightning_dpo.module import DPOModule

_METRICS = ("pairs_per_second", "tokens_per_second", "padding_fraction", "peak_memory_gb")
_MFU, _MEASURED = "mfu", "measured_rate_share"


class Throughput(Callback):
    """Logs the throughput of each optimizer step.

    - `train/pairs_per_second` and `train/tokens_per_second`, of all devices. Tokens are the positions that the policy
      processes, padding included; those of the reference are not counted. Time is wall-clock time from one optimizer
      step to the next, with data loading and logging and without validation.
    - `train/padding_fraction`: the share of padding in these positions, on this device.
    - `train/mfu`: model FLOPs utilization. FLOPs of the matrix products of policy and reference on this device, divided
      by time and by the device's datasheet peak. Where the peak is unknown, as on CPUs, `train/measured_rate_share`
      divides by the rate of large square matrix products, which is measured once at the start.
    - `train/peak_memory_gb`: the peak memory of this device, or of this process on a CPU, in 10⁹ bytes.
    - `train/seconds/...`, with the profiler `PartTimes`: the duration of the parts of a step on this device.

    Attributes:
        rate: FLOPs per second that utilization is relative to. Set when training starts.
    """

    def __init__(self) -> None:
        self._paused = 0.0
        self._kept: dict[str, float] = {}
        self.rate = 0.0
        self._utilization = _MEASURED
        self._real: Tensor | None = None
        self._passes: list[Callable[[PreferenceBatch], float]] = []
        self._restart()

    def metric_names(self, pl_module: LightningModule) -> set[str]:
        """The metrics that this callback logs, without those of the profiler. Of the last two, a run logs one."""
        return {f"train/{name}" for name in (*_METRICS, _MFU, _MEASURED)}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the device's peak rate, or measure one, and count the FLOPs of the models."""
        device, dtype = trainer.strategy.root_device, compute_dtype(str(trainer.precision))
        peak = peak_rate(device, dtype)
        self.rate, self._utilization = (matrix_rate(device, dtype), _MEASURED) if peak is None else (peak, _MFU)
        module = cast("DPOModule", pl_module)
        policy, reference = MatrixWork(module.policy), module.reference
        self._passes = [policy.forward, policy.backward]
        cached = getattr(datamodule_of(trainer), "reference_logps", None) is not None
        if reference and reference.answers and not cached:
            self._passes.append((MatrixWork(reference.model) if reference.model else policy).forward)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting."""
        self._restart()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: PreferenceBatch, batch_idx: int
    ) -> None:
        """Count a micro-batch; at the end of a step, log."""
        self._tokens += batch.input_ids.numel()
        # The sum stays on the device: reading it would wait for the GPU to finish.
        self._real = batch.tokens if self._real is None else self._real + batch.tokens
        self._flops += sum(one(batch) for one in self._passes)
        # The last step of an epoch may have fewer micro-batches.
        if (batch_idx + 1) % trainer.accumulate_grad_batches and not trainer.is_last_batch:
            return
        seconds = time.perf_counter() - self._start
        measured = (
            # `step_pairs` counts all devices; tokens are counted here, and the other devices have about as many.
            float(batch.step_pairs) / seconds,
            self._tokens * trainer.world_size / seconds,
            1 - float(self._real) / self._tokens,
            peak_memory(trainer.strategy.root_device) / 1e9,
        )
        values = dict(zip(_METRICS, measured, strict=True)) | {self._utilization: self._flops / seconds / self.rate}
        if (timer := part_times_of(trainer)) is not None:
            values |= {f"seconds/{part}": spent for part, spent in timer.take().items()}
        named = {f"train/{name}": value for name, value in values.items()}
        pl_module.log_dict(named, on_step=True, batch_size=1)
        self._restart()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Pause the clock."""
        self._paused = time.perf_counter()
        if (timer := part_times_of(trainer)) is not None:
            self._kept = timer.take()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Resume the clock, without the time of the validation."""
        # Move the start forward instead of subtracting later.
        self._start += time.perf_counter() - self._paused
        if (timer := part_times_of(trainer)) is not None:
            timer.seconds = self._kept

    def _restart(self) -> None:
        self._start, self._tokens, self._flops, self._real = time.perf_counter(), 0, 0.0, None


def peak_memory(device: torch.device) -> int:
    """Peak memory of `device`, or of this process on a CPU, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return psutil.Process().memory_info().peak_wset
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
