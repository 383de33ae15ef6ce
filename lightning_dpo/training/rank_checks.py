"""What devices must agree on, and what must differ, before they train together."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor, distributed

from lightning_dpo.batch import PreferenceBatch
from lightning_dpo.errors import UserError


def check_dealt(batch: PreferenceBatch, strategy: Strategy, rank: int) -> None:
    """Refuse devices that are given the same pairs. Called on all of them at once.

    Args:
        batch: This device's first.
        strategy: The Trainer's.
        rank: This device.

    Raises:
        UserError: Two devices begin with the same pair.
    """
    rows = batch.pair_index[batch.counted]
    # A device that only fills the step up has no pair of its own.
    first = rows[0] if len(rows) else torch.tensor(-1 - rank, device=batch.pair_index.device)
    everywhere = strategy.all_gather(first).flatten().tolist()
    for device, row in enumerate(everywhere):
        if (other := everywhere.index(row)) != device:
            raise UserError(
                f"devices {other} and {device} begin with the same pair (row {row}), so they would train on the same "
                "data: use strategy=ddp or strategy=fsdp, in code lightning_dpo.training.FullySharded(), or deal the "
                "pairs by trainer.strategy.distributed_sampler_kwargs"
            )


def check_same(facts: Mapping[str, Any], strategy: Strategy) -> None:
    """Refuse devices that differ from the first one in what should be the same. Called on all of them at once.

    Args:
        facts: What should be, by name.
        strategy: The Trainer's.

    Raises:
        UserError: Names what differs, with a device's value and the first one's; the same on all devices.
    """
    first = strategy.broadcast(dict(facts))
    names = sorted(name for name in facts.keys() | first.keys() if facts.get(name) != first.get(name))
    if strategy.reduce_boolean_decision(not names):
        return
    here = ", ".join(f"{name} is {facts.get(name)!r} and there {first.get(name)!r}" for name in names[:8])
    everywhere: list[str] = [""] * distributed.get_world_size()
    distributed.all_gather_object(everywhere, here)
    device, differs = next((device, said) for device, said in enumerate(everywhere) if said)
    raise UserError(
        f"device {device} was not started like the first one: {differs}; give all nodes one command and one checkout"
    )


def on_all_devices(flag: Tensor) -> bool:
    """Whether `flag`, shape (), holds on every device."""
    agreed = flag.int()
    if distributed.is_available() and distributed.is_initialized():
        # A device that continued by itself would wait for the others until the timeout.
        distributed.all_reduce(agreed, distributed.ReduceOp.MIN)
    return bool(agreed)


def of_all_devices(rows: list[int]) -> list[int]:
    """The rows of every device, in the order of devices."""
    if not distributed.is_available() or not distributed.is_initialized():
        return rows
    everywhere: list[list[int]] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(everywhere, rows)
    return [row for found in everywhere for row in found]


def named(rows: list[int], place: Callable[[int], str], most: int = 16) -> str:
    """The rows by name, at most `most` of them."""
    more = f" and {len(rows) - most} more" if len(rows) > most else ""
    return ", ".join(place(row) for row in rows[:most]) + more
