"""Batches from tokenized pairs, and the position from which a resumed run continues."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import Any

import datasets
import torch
from lightning import LightningDataModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus
from torch.utils.data import DataLoader, Dataset

from lightning_dpo.batch import MicroBatch, PreferenceBatch, TokenizedPair
from lightning_dpo.data.rows.arrow import columns_of
from lightning_dpo.data.steps.sampler import MicroBatchRows, StepSampler
from lightning_dpo.errors import UserError
from lightning_dpo.layouts import Layout

_OF_REFERENCE = ("chosen_logps", "rejected_logps")

ReferenceLogps = Callable[[Sequence[bytes]], Sequence[Sequence[float]]]
"""Returns the log-probs of the scored tokens of completions under the reference, by their keys."""


class MicroBatches(Dataset[MicroBatch]):
    """Tokenized pairs, read one micro-batch at a time.

    Args:
        tokens: Rows with the fields of `TokenizedPair` that do not depend on the reference, and the completions' keys.
        reference: Returns the reference's log-probs of completions; None: batches do not contain them.
        chosen_only: Whether rejected completions are not used.
    """

    columns = tuple(field.name for field in fields(TokenizedPair) if field.name not in ("index", *_OF_REFERENCE))

    def __init__(
        self, tokens: datasets.Dataset, reference: ReferenceLogps | None = None, chosen_only: bool = False
    ) -> None:
        self.reference, self.sides = reference, ("chosen",) if chosen_only else ("chosen", "rejected")
        keys = [] if reference is None else [f"{side}_key" for side in self.sides]
        self.tokens = tokens.select_columns([*self.columns, *keys]).with_format("arrow")

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, micro_batch: MicroBatchRows) -> MicroBatch:
        columns: dict[str, Sequence[Any]] = {**columns_of(self.tokens, micro_batch.rows)}
        if self.reference is not None:
            for side in self.sides:
                columns[f"{side}_logps"] = self.reference(columns.pop(f"{side}_key"))
        pairs = [
            TokenizedPair(row, **{name: values[index] for name, values in columns.items()})
            for index, row in enumerate(micro_batch.rows)
        ]
        return MicroBatch(pairs, micro_batch.counted, micro_batch.step_pairs, micro_batch.step_chosen_tokens)


class Collator:
    """Converts micro-batches to batches in the layout that is set at that time.

    Args:
        layout: The layout, which can be changed later.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def __call__(self, micro_batch: MicroBatch) -> PreferenceBatch:
        """The batch of `micro_batch`."""
        return self.layout(micro_batch)


class StepLoader:
    """Batches in the order of `sampler`. A resumed run skips the batches that were already trained on.

    Not a subclass of DataLoader: Lightning would replace the sampler of one, which decides what an optimizer step is.

    Args:
        pairs: The dataset.
        sampler: The micro-batches of this device.
        collate: Converts a micro-batch to a batch.
        made_by: The data module, for callbacks that know only its loader.
        num_workers: Worker processes; 0: none.
        steps_done: Returns the number of optimizer steps to skip at the start of the epoch: 0 except after a resume.
    """

    def __init__(
        self,
        pairs: MicroBatches,
        sampler: StepSampler,
        collate: Collator,
        made_by: LightningDataModule,
        num_workers: int,
        steps_done: Callable[[], int] = int,
    ) -> None:
        self.made_by, self.steps_done, self.sampler = made_by, steps_done, sampler
        self._batches: DataLoader[PreferenceBatch] = DataLoader(
            pairs,  # type: ignore[arg-type]  # with batch_size=None, items are micro-batches
            # The sampler returns whole micro-batches, so the automatic batching of DataLoader is disabled.
            batch_size=None,
            sampler=sampler,
            collate_fn=collate,  # type: ignore[arg-type]  # the same
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            # Without its own generator, a loader takes random numbers from the global one for its workers' seeds.
            generator=torch.Generator().manual_seed(sampler.seed),
        )

    batch_sampler = None  # Lightning looks for the sampler here too

    def __len__(self) -> int:
        """Number of micro-batches of an epoch on this device."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[PreferenceBatch]:
        """The batches of an epoch. The start position is read when the first batch is requested.

        Lightning creates this iterator while it sets up the optimizer, before it restores the loops' state and sets the
        sampler's epoch. A plain iterator's workers would have read the first batches by then.
        """
        self.sampler.steps = self.steps_done()
        yield from self._batches


def devices_of(trainer: Trainer | None) -> dict[str, int]:
    """The number of devices that share the pairs, `num_replicas`, and the index of this one, `rank`."""
    single = {"num_replicas": 1, "rank": 0}
    return single if trainer is None else getattr(trainer.strategy, "distributed_sampler_kwargs", single)


def steps_done(trainer: Trainer) -> int:
    """Optimizer steps of the current epoch that were already trained: 0 except after a resume, and outside of `fit`.

    Raises:
        UserError: The checkpoint was written between two micro-batches of one step.
    """
    if trainer.state.fn != TrainerFn.FITTING or trainer.state.status != TrainerStatus.RUNNING:
        return 0
    loop, accumulate = trainer.fit_loop, trainer.accumulate_grad_batches
    trained = loop.epoch_loop.batch_progress.current.ready
    if trained % accumulate and trained < loop.max_batches:
        raise UserError(
            "the checkpoint was written in the middle of an optimizer step and lacks its accumulated gradients: resume "
            "from last.ckpt, which is written between two steps"
        )
    return math.ceil(trained / accumulate)
