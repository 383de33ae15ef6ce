"""The state of a run at the points from which it can resume exactly.

Lightning counts the batches that each loop has started and finished, and resumes according to these counts. Between two
optimizer steps, before a validation and after one, the counts describe the run completely. Within a step they lack the
accumulated gradients, and within a validation the metrics of the batches so far.
"""

from dataclasses import dataclass, replace
from typing import Any

from lightning import Trainer

from lightning_dpo.checkpoints.random_state import random_state

_VALIDATED = "epoch_loop.val_loop.batch_progress"


@dataclass(frozen=True)
class ResumePoint:
    """A point from which a run can resume.

    Attributes:
        loops: State of Lightning's loops.
        random: State of this process's random number generators.
    """

    loops: dict[str, Any]
    random: dict[str, Any]


def between_steps(trainer: Trainer) -> ResumePoint:
    """The point after an optimizer step. Call it in `on_train_batch_end` after the step's last micro-batch."""
    # A copy of the counters, which stays valid when the loops continue.
    return ResumePoint(trainer.fit_loop.state_dict(), random_state())


def before_validation(trainer: Trainer, step: ResumePoint) -> ResumePoint:
    """The point before the validation that is running, so that the resumed run repeats all of it.

    With the state of `between_steps`, Lightning would skip this validation.

    Args:
        trainer: The Trainer.
        step: The point after the last optimizer step, for its random state.
    """
    state = trainer.fit_loop.state_dict()
    validated = state[_VALIDATED]["total"]
    # One batch started and none finished: from this the loop infers that the validation was interrupted.
    validated |= {"ready": validated["completed"] + 1, "started": validated["completed"] + 1}
    validated["processed"] = validated["completed"]
    state[_VALIDATED]["current"] = dict.fromkeys(state[_VALIDATED]["current"], 0)
    return replace(step, loops=state)


def after_validation(trainer: Trainer) -> ResumePoint:
    """The point after a validation. Call it in `on_validation_end`.

    After a resume within a validation, Lightning's counts of started and finished batches stay one apart, which would
    mean another interruption.
    """
    point = between_steps(trainer)
    validated = point.loops[_VALIDATED]
    validated["total"] = dict.fromkeys(validated["total"], validated["total"]["completed"])
    return point
