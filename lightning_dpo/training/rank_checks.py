"""Checks across devices: which values must be equal on all, and which must differ."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor, distributed

from lightning_dpo.batch import PreferenceBatch
from lightning_dpo.errors import UserError


def check_dealt(batch: PreferenceBatch, strategy: Strategy, rank: int) -> None:
    """Check that devices train on different pairs. A collective call.

    Args:
        batch: The first micro-batch of this device.
        strategy: The strategy of the Trainer.
        rank: Rank of this device.

    Raises:
        UserError: Two devices start with the same pair.
    """
    rows = batch.pair_index[batch.counted]
    # If the step has fewer pairs than devices, some devices have none: their negative rank is unique.
    first = rows[0] if len(rows) else torch.tensor(-1 - rank, device=batch.pair_index.device)
    everywhere = strategy.all_gather(first).flatten().tolist()
    for device, row in enumerate(everywhere):
        if (other := everywhere.index(row)) != device:
            raise UserError(
                f"devices {other} and {device} start with the same pair (row {row}), so they would train on duplicated "
                "data: use strategy=ddp or strategy=fsdp, in Python lightning_dpo.training.FullySharded(), or "
                "distribute the pairs according to trainer.strategy.distributed_sampler_kwargs"
            )


def check_same(facts: Mapping[str, Any], strategy: Strategy) -> None:
    """Check that all devices have the same values as the first one. A collective call.

    Args:
        facts: The values, by name.
        strategy: The strategy of the Trainer.

    Raises:
        UserError: A value differs; the message, the same on all devices, contains both values.
    """
    # All devices must take part in each collective below, so no device may raise before the last one.
    first = strategy.broadcast(dict(facts))
    names = sorted(name for name in facts.keys() | first.keys() if facts.get(name) != first.get(name))
    # Device 0 never differs from itself, so the decision is reduced: all devices return here, or none.
    if strategy.reduce_boolean_decision(not names):
        return
    here = ", ".join(f"{name} is {facts.get(name)!r} instead of {first.get(name)!r}" for name in names[:8])
    everywhere: list[str] = [""] * distributed.get_world_size()
    distributed.all_gather_object(everywhere, here)
    device, differs = next((device, text) for device, text in enumerate(everywhere) if text)
    raise UserError(
        f"device {device} was started with other settings than device 0: {differs}; use the same command and checkout "
        "on all nodes"
    )


def on_all_devices(flag: Tensor) -> bool:
    """Whether `flag`, shape (), holds on every device."""
    agreed = flag.int()
    if distributed.is_available() and distributed.is_initialized():
        # All devices must take the same decision: one that continued would wait for the others until the timeout.
        distributed.all_reduce(agreed, distributed.ReduceOp.MIN)
    return bool(agreed)


def of_all_devices(rows: list[int]) -> list[int]:
    """The rows of every device, in the order of devices."""
    if not distributed.is_available() or not distributed.is_initialized():
        return rows
    # Lists of different lengths cannot be gathered as tensors.
    everywhere: list[list[int]] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(everywhere, rows)
    return [row for found in everywhere for row in found]


def named(rows: list[int], place: Callable[[int], str], most: int = 16) -> str:
    """The names of rows, at most `most` of them."""
    more = f" and {len(rows) - most} more" if len(rows) > most else ""
    return ", ".join(place(row) for row in rows[:most]) + more
