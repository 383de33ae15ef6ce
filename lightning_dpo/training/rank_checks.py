"""What devices must agree on, and what must differ, before they train together."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.strategies import Strategy
from torch import distributed

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
