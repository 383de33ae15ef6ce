"""Where a run resumes: the state of Lightning's loops at moments from which they continue without loss.

Lightning keeps count of what each loop has begun and finished, and looks at these counts when it resumes. Between two
optimizer steps, before a validation and after one, they describe the run completely. Elsewhere they do not: within a
step they forget the gradients that were accumulated, and within a validation the pairs that were counted.
"""

from typing import Any

from lightning import Trainer

_VALIDATED = "epoch_loop.val_loop.batch_progress"


def between_steps(trainer: Trainer) -> dict[str, Any]:
    """The loops' state now, in `on_train_batch_end` of a micro-batch that ended an optimizer step."""
    return trainer.fit_loop.state_dict()


def before_validation(trainer: Trainer) -> dict[str, Any]:
    """The loops' state now, within a validation, such that the resumed run does all of it again.

    From `between_steps`, Lightning would resume after the validation, and the run would lack one.
    """
    state = between_steps(trainer)
    validated = state[_VALIDATED]["total"]
    # One batch was begun, and none of this validation is finished: that is how the loop knows that it was interrupted.
    validated |= {"ready": validated["completed"] + 1, "started": validated["completed"] + 1}
    validated["processed"] = validated["completed"]
    state[_VALIDATED]["current"] = dict.fromkeys(state[_VALIDATED]["current"], 0)
    return state


def after_validation(trainer: Trainer) -> dict[str, Any]:
    """The loops' state now, in `on_validation_end`, such that the resumed run does not validate again.

    After a resume within a validation, Lightning's counts stay one apart and would say that it was interrupted again.
    """
    state = between_steps(trainer)
    state[_VALIDATED]["total"] = dict.fromkeys(state[_VALIDATED]["total"], state[_VALIDATED]["total"]["completed"])
    return state
