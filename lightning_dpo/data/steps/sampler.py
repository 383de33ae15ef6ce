"""The pairs of each optimizer step, micro-batch and device: a pure function of seed and epoch."""

import hashlib
import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch.utils.data import Dataset, DistributedSampler

from lightning_dpo.data.steps.dealing import deal, deal_together
from lightning_dpo.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MicroBatchRows:
    """The rows of one micro-batch. `MicroBatch` documents the other fields."""

    rows: Sequence[int]
    counted: Sequence[bool]
    step_pairs: int
    step_chosen_tokens: int


class StepSampler(DistributedSampler[MicroBatchRows]):
    """Assigns the pairs of every optimizer step to micro-batches and devices, for a DataLoader with batch_size=None.

    A step has `pairs_per_step` pairs on any number of devices; the last step of an epoch has the rest. Its pairs are
    partitioned into micro-batches, and these into devices, with nearly equal token counts. The micro-batches of a step
    are the same on any number of devices. If they do not divide evenly, the remaining devices get a filler pair with
    `counted=False`, because every device must run the same number of micro-batches. The state is `(epoch, steps)`.

    A subclass of `DistributedSampler`, because Lightning replaces other samplers and sets the epoch only of this one.

    Args:
        chosen_lengths: Number of scored tokens of each pair's chosen completion.
        pairs_per_step: Pairs in one optimizer step on all devices.
        batch_size: Pairs in one forward pass on one device.
        tokens: Returns the number of tokens of a forward pass of some pairs; None: pairs keep their order, and token
            counts are not balanced.
        prompts: An id of each pair's prompt. Pairs with the same prompt are then adjacent, and in one micro-batch
            unless the end of a step or the batch size separates them. None: prompts are ignored.
        num_replicas: Number of devices.
        rank: Index of this device.
        shuffle: Use another random order every epoch; otherwise the order of the data.
        seed: Random seed of the order.

    Attributes:
        steps: Optimizer steps to skip at the start of the epoch, after a resume. `len` includes them, and the next
            epoch is complete.
    """

    def __init__(
        self,
        chosen_lengths: Sequence[int],
        pairs_per_step: int,
        batch_size: int,
        tokens: Callable[[Sequence[int]], int] | None = None,
        prompts: Sequence[int] | None = None,
        num_replicas: int = 1,
        rank: int = 0,
        shuffle: bool = True,
        seed: int = 0,
    ) -> None:
        # DistributedSampler needs only the length of the dataset.
        rows = cast(Dataset[int], chosen_lengths)
        super().__init__(rows, num_replicas=num_replicas, rank=rank, shuffle=shuffle, seed=seed)
        self.chosen_lengths, self.tokens, self.prompts = chosen_lengths, tokens, prompts
        self.pairs_per_step, self.batch_size = pairs_per_step, batch_size
        self.steps = 0

    def __len__(self) -> int:
        """Number of micro-batches of one epoch on this device."""
        whole, rest = divmod(len(self.chosen_lengths), self.pairs_per_step)
        # Without `steps`: Lightning itself adds the number of restored batches.
        return whole * self._per_device(self.pairs_per_step) + self._per_device(rest)

    def __iter__(self) -> Iterator[MicroBatchRows]:
        """The micro-batches of one epoch on this device."""
        skipped, self.steps = self.steps, 0
        for step in itertools.islice(self._steps(), skipped, None):
            yield from self._mine(step)

    def first_rows(self, steps: int) -> list[int]:
        """Rows of the first `steps` steps of the epoch, on all devices."""
        return [row for step in itertools.islice(self._steps(), steps) for row in step]

    def _steps(self) -> Iterator[list[int]]:
        order = self._order()
        return (order[start : start + self.pairs_per_step] for start in range(0, len(order), self.pairs_per_step))

    def _order(self) -> list[int]:
        groups = self._grouped(range(len(self.chosen_lengths)))
        return [row for index in self._permutation(len(groups)) for row in groups[index]]

    def _grouped(self, rows: Iterable[int]) -> list[list[int]]:
        """`rows` by prompt; without `prompts`, each row separately."""
        if self.prompts is None:
            return [[row] for row in rows]
        groups: dict[int, list[int]] = {}
        for row in rows:
            groups.setdefault(self.prompts[row], []).append(row)
        return list(groups.values())

    def _permutation(self, count: int) -> list[int]:
        if not self.shuffle:
            return list(range(count))
        # A hash of both, because with seed + epoch, epoch 1 of seed 0 would have the order of epoch 0 of seed 1.
        digest = hashlib.sha256(f"{self.seed} {self.epoch}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)
        return torch.randperm(count, generator=generator).tolist()

    def _mine(self, step: list[int]) -> Iterator[MicroBatchRows]:
        """The micro-batches of a step on this device."""
        pairs, tokens = len(step), sum(self.chosen_lengths[row] for row in step)
        micro_batches = self._micro_batches(step)
        # Validation keeps the order of the data: devices take turns.
        if self.tokens is None:
            mine = micro_batches[self.rank :: self.num_replicas]
        else:
            sizes = [self.tokens(rows) for rows in micro_batches]
            mine = [micro_batches[index] for index in deal(sizes, self.num_replicas)[self.rank]]
        yield from (MicroBatchRows(rows, [True] * len(rows), pairs, tokens) for rows in mine)
        # Fillers, because all devices must take part in the same number of collective calls.
        yield from [MicroBatchRows(step[:1], [False], pairs, tokens)] * (self._per_device(pairs) - len(mine))

    def _micro_batches(self, step: list[int]) -> list[list[int]]:
        if self.tokens is None:
            return self._in_order(step)
        return deal_together(self._grouped(step), self.tokens, math.ceil(len(step) / self.batch_size))

    def _in_order(self, step: list[int]) -> list[list[int]]:
        return [step[start : start + self.batch_size] for start in range(0, len(step), self.batch_size)]

    def _per_device(self, pairs: int) -> int:
        return math.ceil(math.ceil(pairs / self.batch_size) / self.num_replicas)


def pairs_of_step(pairs_per_step: int | None, batch_size: int, devices: int, accumulate: int) -> int:
    """Pairs in one optimizer step; with `pairs_per_step=None`, according to the Trainer's accumulation.

    Raises:
        UserError: `pairs_per_step` contradicts the accumulation of the Trainer.
    """
    if pairs_per_step is None:
        return accumulate * batch_size * devices
    if (needed := pairs_per_step // (batch_size * devices)) != accumulate:
        raise UserError(
            f"pairs_per_step={pairs_per_step} with batch_size={batch_size} on {devices} device(s) needs "
            f"Trainer(accumulate_grad_batches={needed}), got {accumulate}"
        )
    return pairs_per_step


def fitting_batch_size(pairs_per_step: int, batch_size: int, devices: int) -> int:
    """The largest batch size, at most `batch_size`, that divides each device's share of a step.

    >>> fitting_batch_size(pairs_per_step=64, batch_size=8, devices=16)
    4

    Raises:
        UserError: `pairs_per_step` is not a multiple of the number of devices.
    """
    share, left = divmod(pairs_per_step, devices)
    if left or not share:
        nearest = " or ".join(str(number) for number in (share * devices, (share + 1) * devices) if number)
        raise UserError(
            f"data.pairs_per_step={pairs_per_step} is not a multiple of {devices} devices: set it to {nearest}"
        )
    fitting = next(size for size in range(min(batch_size, share), 0, -1) if share % size == 0)
    if fitting != batch_size:
        shares = f"each of {devices} device(s) gets {share} of the {pairs_per_step} pairs of a step"
        log.info("data.batch_size is reduced from %d to %d: %s.", batch_size, fitting, shares)
    return fitting
