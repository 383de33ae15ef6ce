"""Which pairs form a step, a micro-batch, a validation pass: a pure function of seed and epoch."""

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import DistributedSampler

from lightning_dpo.errors import UserError


@dataclass(frozen=True, slots=True)
class Draw:
    """The rows of one micro-batch; see `MicroBatch` for the rest."""

    rows: Sequence[int]
    counted: Sequence[bool]
    step_pairs: int
    step_chosen_tokens: int


class StepSampler(DistributedSampler[Draw]):
    """Deals the pairs of every optimizer step over devices and micro-batches; for a DataLoader with batch_size=None.

    A step is `pairs_per_step` pairs on any number of devices; the last of an epoch has what is left. All devices get
    equally many micro-batches: a pair that does not count fills up those that would have fewer. It subclasses
    `DistributedSampler` because that is the one sampler which Lightning leaves alone and tells the epoch.

    Args:
        chosen_lengths: Scored tokens of every pair's chosen completion.
        pairs_per_step: Pairs in one optimizer step, all devices together.
        batch_size: Pairs in one forward pass on one device.
        num_replicas: Devices.
        rank: This one.
        shuffle: Another order every epoch, by `seed`; otherwise the data's own.
        seed: Of the order.
        skip: Micro-batches of the first epoch that were trained on before a resume; `len` counts them all the same.
    """

    def __init__(
        self,
        chosen_lengths: Sequence[int],
        pairs_per_step: int,
        batch_size: int,
        num_replicas: int = 1,
        rank: int = 0,
        shuffle: bool = True,
        seed: int = 0,
        skip: int = 0,
    ) -> None:
        super().__init__(chosen_lengths, num_replicas=num_replicas, rank=rank, shuffle=shuffle, seed=seed)
        self.chosen_lengths = chosen_lengths
        self.pairs_per_step = pairs_per_step
        self.batch_size = batch_size
        self.skip = skip

    def __len__(self) -> int:
        """Micro-batches of one epoch on this device."""
        whole, rest = divmod(len(self.chosen_lengths), self.pairs_per_step)
        return whole * self._micro_batches(self.pairs_per_step) + self._micro_batches(rest)

    def __iter__(self) -> Iterator[Draw]:
        """The micro-batches of one epoch on this device, step after step."""
        order, skip = self._order(), self.skip
        self.skip = 0
        steps = (order[start : start + self.pairs_per_step] for start in range(0, len(order), self.pairs_per_step))
        yield from itertools.islice(itertools.chain.from_iterable(map(self._step, steps)), skip, None)

    def _order(self) -> list[int]:
        if not self.shuffle:
            return list(range(len(self.chosen_lengths)))
        # Hashed, so that epoch 1 of seed 0 is not epoch 0 of seed 1.
        digest = hashlib.sha256(f"{self.seed} {self.epoch}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)
        return torch.randperm(len(self.chosen_lengths), generator=generator).tolist()

    def _step(self, step: list[int]) -> Iterator[Draw]:
        tokens = sum(self.chosen_lengths[row] for row in step)
        mine = step[self.rank :: self.num_replicas]
        fill = math.ceil(len(step) / self.num_replicas) - len(mine)
        rows, counted = mine + step[:1] * fill, [True] * len(mine) + [False] * fill
        for start in range(0, len(rows), self.batch_size):
            chunk = slice(start, start + self.batch_size)
            yield Draw(rows[chunk], counted[chunk], len(step), tokens)

    def _micro_batches(self, pairs: int) -> int:
        return math.ceil(math.ceil(pairs / self.num_replicas) / self.batch_size)


def accumulation(pairs_per_step: int, batch_size: int, devices: int) -> int:
    """Micro-batches per device and optimizer step.

    >>> accumulation(pairs_per_step=64, batch_size=8, devices=2)
    4

    Raises:
        UserError: They do not come out whole.
    """
    together = batch_size * devices
    if pairs_per_step % together == 0:
        return pairs_per_step // together
    below, above = pairs_per_step // together * together, math.ceil(pairs_per_step / together) * together
    nearest = " or ".join(str(number) for number in (below, above) if number)
    raise UserError(
        f"data.pairs_per_step={pairs_per_step} is no multiple of data.batch_size={batch_size} on {devices} device(s): "
        f"set data.pairs_per_step={nearest}, or a data.batch_size that divides it"
    )
