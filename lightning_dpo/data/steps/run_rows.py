"""The pairs that a run of the Trainer reads."""

import math
from collections.abc import Callable

from lightning import Trainer

from lightning_dpo.data.steps.sampler import StepSampler


def rows_trained(trainer: Trainer, pairs: int, per_step: int, sampler: Callable[[], StepSampler]) -> list[int]:
    """Rows of the pairs that `fit` trains on: all, unless the run ends before, or leaves out a part of each epoch.

    Args:
        trainer: The Trainer.
        pairs: Number of training pairs.
        per_step: Pairs in an optimizer step.
        sampler: Creates the sampler of the training pairs.
    """
    in_epoch = math.ceil(pairs / per_step)
    steps = in_epoch
    if trainer.limit_train_batches != 1.0:
        batches = _limited(trainer.limit_train_batches, in_epoch * trainer.accumulate_grad_batches)
        steps = math.ceil(batches / trainer.accumulate_grad_batches)
    if 0 <= trainer.max_steps < steps:
        steps = trainer.max_steps
    epochs = trainer.max_epochs if trainer.max_epochs is not None and trainer.max_epochs > 0 else None
    if trainer.max_steps >= 0 and steps:
        epochs = min(math.ceil(trainer.max_steps / steps), epochs or trainer.max_steps)
    if steps >= in_epoch or epochs is None or epochs * steps >= 4 * in_epoch:
        return list(range(pairs))
    order, rows = sampler(), set()
    for epoch in range(epochs):
        order.set_epoch(epoch)
        rows.update(order.first_rows(steps))
    return sorted(rows)


def rows_validated(trainer: Trainer, pairs: int, batch_size: int) -> list[int]:
    """Rows of the pairs that a validation reads."""
    batches = _limited(trainer.limit_val_batches, math.ceil(pairs / (batch_size * trainer.world_size)))
    return list(range(min(pairs, batches * batch_size * trainer.world_size)))


def _limited(limit: float | None, batches: int) -> int:
    """Number of batches with Lightning's `limit_*_batches`: a number, or a fraction."""
    if limit is None:
        return batches
    return min(batches, limit) if isinstance(limit, int) else math.ceil(limit * batches)
