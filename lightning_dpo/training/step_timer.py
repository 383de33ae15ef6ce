"""How long the parts of a training step take: `+profile=true`."""

import time

import torch
from lightning import Trainer
from lightning.pytorch.profilers import Profiler

from lightning_dpo.training.trainer_attributes import profiler_of

PARTS = ("forward", "reference", "backward", "optimizer", "data")
REFERENCE = "reference"
"""The action that `DPOModule` profiles itself."""

_ACTIONS = {
    ".training_step": "forward",
    REFERENCE: "reference",
    ".backward": "backward",
    ".optimizer_step": "optimizer",
    ".train_dataloader_next": "data",
    ".batch_to_device": "data",
}


class PartTimes(Profiler):
    """Seconds that each part took, those of parts within it taken off. A Trainer's `profiler`.

    `forward` is the policy's forward pass and the loss; `reference`, the reference's; `optimizer`, clipping, checks and
    the update; `data`, waiting for a batch and its way to the device. On a GPU the parts wait for each other, so a step
    takes a little longer than without.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._running: list[tuple[str, float]] = []

    def start(self, action_name: str) -> None:
        """Begin to count for the part that the action belongs to, if any, in place of the one it is in."""
        if part := _part(action_name):
            self._count()
            self._running.append((part, self._now()))

    def stop(self, action_name: str) -> None:
        """Go on with the part that it is in."""
        if _part(action_name) and self._running:
            self._count()
            self._running.pop()
            if self._running:
                self._running[-1] = (self._running[-1][0], self._now())

    def take(self) -> dict[str, float]:
        """Seconds of every part since the last call."""
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
