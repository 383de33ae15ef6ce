"""Duration of the parts of a training step: `+profile=true`."""

import time

import torch
from lightning import Trainer
from lightning.pytorch.profilers import Profiler

from lightning_dpo.training.trainer_attributes import profiler_of

PARTS = ("forward", "reference", "backward", "optimizer", "data")
REFERENCE = "reference"
"""The profiler action that `DPOModule` adds to Lightning's."""

# Suffixes of Lightning's profiler actions, with the dot: `.optimizer_step` must not match on_before_optimizer_step.
_ACTIONS = {
    ".training_step": "forward",
    REFERENCE: "reference",
    ".backward": "backward",
    ".optimizer_step": "optimizer",
    ".train_dataloader_next": "data",
    ".batch_to_device": "data",
}


class PartTimes(Profiler):
    """A `profiler` for the Trainer: seconds of each part, without the parts nested in it.

    `forward` is the policy's forward pass and the loss; `reference` is the reference's forward pass; `optimizer` is
    clipping, checks and the update; `data` is waiting for a batch and its transfer to the device. On a GPU, timing
    synchronizes the device after each part, so a step takes a little longer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._running: list[tuple[str, float]] = []

    def start(self, action_name: str) -> None:
        """Start timing the part that the action belongs to, and pause the part around it."""
        if part := _part(action_name):
            self._count()
            self._running.append((part, self._now()))

    def stop(self, action_name: str) -> None:
        """Stop timing the part, and resume the part around it."""
        if _part(action_name) and self._running:
            self._count()
            self._running.pop()
            if self._running:
                # Restart the clock of the outer part, so that the time of the inner one is not counted twice.
                self._running[-1] = (self._running[-1][0], self._now())

    def take(self) -> dict[str, float]:
        """Seconds of each part since the last call."""
        taken, self.seconds = self.seconds, dict.fromkeys(PARTS, 0.0)
        return taken

    def _count(self) -> None:
        if self._running:
            part, since = self._running[-1]
            self.seconds[part] += self._now() - since

    @staticmethod
    def _now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()


def _part(action: str) -> str | None:
    return next((part for ending, part in _ACTIONS.items() if action.endswith(ending)), None)


def part_times_of(trainer: Trainer) -> PartTimes | None:
    """The Trainer's profiler, if it is this one."""
    profiler = profiler_of(trainer)
    return profiler if isinstance(profiler, PartTimes) else None
