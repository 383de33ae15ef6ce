"""Learning-rate schedules: functions of `(optimizer, total_steps)` that return a PyTorch scheduler."""

import logging
import math
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

from lightning import Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR
from transformers import get_scheduler

from lightning_dpo.errors import UserError
from lightning_dpo.printable import one_line

log = logging.getLogger(__name__)

Schedule = Callable[[Optimizer, int], LRScheduler]

# Without `reduce_lr_on_plateau` and `greedy`, which need a metric at every step.
NameInTransformers = Literal[
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
    "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay",
]  # fmt: skip


def warmup_constant(optimizer: Optimizer, total_steps: int, warmup_steps: int = 0) -> LRScheduler:
    """Linear warm-up from `lr / (warmup_steps + 1)` in the first step, then constant (the DPO authors' code).

    Args:
        optimizer: The optimizer.
        total_steps: Number of optimizer steps of the run.
        warmup_steps: Number of warm-up steps. A run that ends before them logs a warning.
    """
    _check_warmup(warmup_steps, total_steps)
    return LinearLR(optimizer, start_factor=1 / (warmup_steps + 1), total_iters=warmup_steps)


def warmup_cosine(optimizer: Optimizer, total_steps: int, warmup_steps: int = 0, final: float = 0.0) -> LRScheduler:
    """Linear warm-up as in `warmup_constant`, then cosine decay to `final` times the full rate at the end of the run.

    Args:
        optimizer: The optimizer.
        total_steps: Number of optimizer steps of the run.
        warmup_steps: Number of warm-up steps. A run that ends before them logs a warning and does not decay.
        final: Learning rate at the end of the run divided by the full rate, in [0, 1].
    """
    if not 0 <= final <= 1:
        raise UserError(f"scheduler.final must be in [0, 1], got {final!r}")
    if not 0 < warmup_steps < total_steps:
        # Also without warm-up: creating a scheduler sets `initial_lr`, which `_cosine` reads, and checks warmup_steps.
        schedule = warmup_constant(optimizer, total_steps, warmup_steps)
        return schedule if warmup_steps else _cosine(optimizer, total_steps, final)
    warmup = warmup_constant(optimizer, total_steps, warmup_steps)
    return SequentialLR(optimizer, [warmup, _cosine(optimizer, total_steps - warmup_steps, final)], [warmup_steps])


def transformers_schedule(
    optimizer: Optimizer,
    total_steps: int,
    name: NameInTransformers,
    warmup_steps: int = 0,
    options: Mapping[str, float | str | None] | None = None,
) -> LRScheduler:
    """A schedule of `transformers.get_scheduler`, with the same learning rates as in the trainers that use it.

    Its warm-up starts from 0 in the first step, so that step changes nothing, unlike that of `warmup_constant`.

    Args:
        optimizer: The optimizer.
        total_steps: Number of optimizer steps of the run.
        name: Its name in transformers, `lr_scheduler_type` in TRL.
        warmup_steps: Number of warm-up steps.
        options: Further arguments of this schedule, such as `{min_lr: 1e-7}`; `lr_scheduler_kwargs` in TRL.
    """
    _check_warmup(warmup_steps, total_steps)
    if name == "constant" and (warmup_steps or options):
        raise UserError("scheduler.name=constant has neither warm-up nor options; choose constant_with_warmup")
    if name == "constant_with_warmup" and options:
        raise UserError(f"scheduler.options={dict(options)} has no effect: scheduler.name={name} has no options")
    try:
        return get_scheduler(name, optimizer, warmup_steps, total_steps, dict(options or {}))
    except (ArithmeticError, TypeError, ValueError) as error:
        raise UserError(f"scheduler.name={name}: {one_line(str(error))}") from error


def _check_warmup(warmup_steps: int, total_steps: int) -> None:
    if warmup_steps < 0:
        raise UserError(f"scheduler.warmup_steps must not be negative, got {warmup_steps}")
    if warmup_steps >= total_steps:
        log.warning(
            "scheduler.warmup_steps=%d: the run has only %d steps, so the learning rate never reaches optimizer.lr",
            warmup_steps,
            total_steps,
        )


_ANY_LENGTH = (warmup_constant,)
_ANY_LENGTH_IN_TRANSFORMERS = ("constant", "constant_with_warmup", "inverse_sqrt")


def depends_on_length(schedule: Schedule) -> bool:
    """Whether the learning rates depend on the length of the run. True for a schedule of another package."""
    function = getattr(schedule, "func", schedule)
    if function is transformers_schedule:
        return getattr(schedule, "keywords", {}).get("name") not in _ANY_LENGTH_IN_TRANSFORMERS
    return function not in _ANY_LENGTH


def check_length(schedule: Schedule, known: bool) -> None:
    """Check that the length of the run is known if the learning rates depend on it.

    Raises:
        UserError: It is not known.
    """
    if not known and depends_on_length(schedule):
        raise UserError(
            f"the schedule {describe(schedule)} depends on the length of the run, which is not known: set "
            "trainer.max_steps, trainer.max_epochs, or scheduler=warmup_constant"
        )


def run_length(trainer: Trainer, schedule: Schedule) -> int:
    """Number of optimizer steps of a run. This creates the training loader.

    Raises:
        UserError: It is not known, and `schedule` depends on it.
    """
    steps = trainer.estimated_stepping_batches
    check_length(schedule, known=math.isfinite(steps))
    return int(steps) if math.isfinite(steps) else sys.maxsize


def describe(schedule: Schedule) -> str:
    """A schedule's name and arguments.

    >>> from functools import partial
    >>> describe(partial(warmup_constant, warmup_steps=3))
    'warmup_constant(warmup_steps=3)'
    """
    function = getattr(schedule, "func", schedule)
    arguments = sorted(getattr(schedule, "keywords", {}).items())
    name = getattr(function, "__name__", type(function).__name__)
    return f"{name}({', '.join(f'{key}={value}' for key, value in arguments)})"


def schedule_facts(schedule: Schedule, total_steps: int) -> dict[str, str]:
    """The schedule and, if it depends on it, the length of the run."""
    length = {"optimizer steps of the run (trainer.max_epochs, trainer.max_steps)": str(total_steps)}
    return {"scheduler": describe(schedule)} | (length if depends_on_length(schedule) else {})


def restarted(
    optimizer: Optimizer, settings: list[dict[str, Any]], schedule: Schedule, steps: int, done: int
) -> LRScheduler:
    """The schedule after `done` steps with new settings, for an optimizer whose state was restored.

    Lightning restores the settings of the checkpoint as well. This is for a run that resumes with other settings.

    Args:
        optimizer: The optimizer. Its settings are replaced.
        settings: The new settings of each parameter group.
        schedule: Creates the schedule.
        steps: Number of optimizer steps of the run.
        done: Number of steps that are done.
    """
    for group, new in zip(optimizer.param_groups, settings, strict=True):
        group.pop("initial_lr", None)
        group.update(new)
    scheduler = schedule(optimizer, steps)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        for _ in range(done):
            scheduler.step()
    return scheduler


def _cosine(optimizer: Optimizer, steps: int, final: float) -> LRScheduler:
    return CosineAnnealingLR(
        optimizer, steps, eta_min=final * max(group["initial_lr"] for group in optimizer.param_groups)
    )
