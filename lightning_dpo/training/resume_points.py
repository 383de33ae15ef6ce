"""The state of Lightning's loops at the points from which a run can resume exactly.

Lightning counts the batches that each loop has started and finished, and resumes according to these counts. Between two
optimizer steps, before a validation and after one, the counts describe the run completely. Within a step they lack the
accumulated gradients, and within a validation the metrics of the batches so far.
"""

from typing import Any

from lightning import Trainer

_VALIDATED = "epoch_loop.val_loop.batch_progress"


def between_steps(trainer: Trainer) -> dict[str, Any]:
    """The state of the loops. Call it in `on_train_batch_end` after the last micro-batch of an optimizer step."""
    # A copy of the counters, which stays valid when the loops continue.
    return trainer.fit_loop.state_dict()


def before_validation(trainer: Trainer) -> dict[str, Any]:
    """The state of the loops within a validation, changed so that the resumed run repeats the whole validation.

    With the state of `between_steps`, Lightning would skip this validation.
    """
    state = between_steps(trainer)
    validated = state[_VALIDATED]["total"]
    # One batch started and none finished: from this the loop infers that the validation was interrupted.
    validated |= {"ready": validated["completed"] + 1, "started": validated["completed"] + 1}
    validated["processed"] = validated["completed"]
    state[_VALIDATED]["current"] = dict.fromkeys(state[_VALIDATED]["current"], 0)
    return state


def after_validation(trainer: Trainer) -> dict[str, Any]:
    """The state of the loops in `on_validation_end`, changed so that the resumed run does not repeat the validation.

    After a resume within a validation, Lightning's counts of started and finished batches stay one apart, which would
    mean another interruption.
    """
    state = between_steps(trainer)
    state[_VALIDATED]["total"] = dict.fromkeys(state[_VALIDATED]["total"], state[_VALIDATED]["total"]["completed"])
    return state
