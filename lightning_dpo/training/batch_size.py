"""`data.batch_size=auto`: the largest batch size that the memory estimate allows."""

import logging
from collections.abc import Callable
from typing import Any

from lightning import Trainer

from lightning_dpo.checkpoints.identity import Identity
from lightning_dpo.training.memory_estimate import MemoryEstimate, device_memory, gigabytes
from lightning_dpo.training.trainer_attributes import datamodule_of
from lightning_dpo.training.trainer_facts import add_order
from lightning_dpo.training.whole_steps import check_limits

log = logging.getLogger(__name__)

# The rest is for what the estimate does not count: the CUDA context, the memory that the allocator cannot use.
_SHARE = 0.85


def choose_batch_size(trainer: Trainer, identity: Identity, estimate: Callable[[int, int], MemoryEstimate]) -> None:
    """Set the batch size of the data module and the accumulation, if they are not set. A collective call.

    A run that resumes uses the size of its checkpoint, because the micro-batches depend on it.

    Args:
        trainer: The Trainer, whose training loader does not exist yet.
        identity: The identity of the training, to which both numbers are added.
        estimate: Estimates the memory of a micro-batch from its tokens and its scored positions.
    """
    data: Any = datamodule_of(trainer)
    if not getattr(data, "auto_batch_size", False):
        return
    available = _SHARE * device_memory(trainer.strategy.root_device)
    sizes = data.batch_sizes()
    saved = [size for size in sizes if str(size) == identity.saved.get("order", {}).get("data.batch_size")]
    for size in saved or sizes:
        tokens, scored = data.largest_batch(size)
        needed = estimate(tokens, scored).total
        fits = needed <= available and tokens <= (data.max_tokens or tokens)
        # The devices may have different amounts of memory.
        if trainer.strategy.reduce_boolean_decision(fits) or size == 1:
            break
    trainer.accumulate_grad_batches = sizes[0] // size
    data.use_batch_size(size)
    add_order(identity, trainer)
    check_limits(trainer)
    log.info(
        "data.batch_size=auto: %d, an estimated %s of %s; %d micro-batches per optimizer step and device.",
        size,
        gigabytes(needed),
        gigabytes(device_memory(trainer.strategy.root_device)),
        trainer.accumulate_grad_batches,
    )
