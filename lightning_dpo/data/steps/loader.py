"""Micro-batches from tokenized pairs, and where a resumed run goes on."""

import math
from collections.abc import Callable, Iterator
from dataclasses import fields

import datasets
import torch
from lightning import LightningDataModule, Trainer
from torch.utils.data import DataLoader, Dataset

from lightning_dpo.batch import MicroBatch, PreferenceBatch, TokenizedPair
from lightning_dpo.data.steps.sampler import Draw, StepSampler
from lightning_dpo.errors import UserError
from lightning_dpo.layouts import Layout


class DrawnPairs(Dataset[MicroBatch]):
    """Tokenized pairs, fetched a micro-batch at a time.

    Args:
        tokens: Rows with the fields of `TokenizedPair`.
    """

    columns = tuple(field.name for field in fields(TokenizedPair) if field.name != "index")

    def __init__(self, tokens: datasets.Dataset) -> None:
        self.tokens = tokens.select_columns(list(self.columns))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, draw: Draw) -> MicroBatch:
        columns = self.tokens[list(draw.rows)]
        pairs = [
            TokenizedPair(row, **{name: values[place] for name, values in columns.items()})
            for place, row in enumerate(draw.rows)
        ]
        return MicroBatch(pairs, draw.counted, draw.step_pairs, draw.step_chosen_tokens)


class Collator:
    """Lays micro-batches out in the layout that is set when a batch is drawn.

    Args:
        layout: The layout until another one is set.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def __call__(self, micro_batch: MicroBatch) -> PreferenceBatch:
        """The batch of `micro_batch`."""
        return self.layout(micro_batch)


class StepLoader(DataLoader[PreferenceBatch]):
    """Batches as `sampler` draws them; in a resumed run, from behind those that were trained on.

    Args:
        pairs: What is drawn from.
        sampler: What is drawn.
        collate: Makes a batch of a micro-batch.
        made_by: The data module, for callbacks that meet only its loader.
        num_workers: Processes that do so ahead of time; 0: none.
        steps_done: Optimizer steps of the epoch that were done when it begins: 0 but in a resumed epoch.
    """

    def __init__(
        self,
        pairs: DrawnPairs,
        sampler: StepSampler,
        collate: Collator,
        made_by: LightningDataModule,
        num_workers: int,
        steps_done: Callable[[], int] = int,
    ) -> None:
        super().__init__(
            pairs,  # type: ignore[arg-type]  # without automatic batching, items become batches in `collate`
            batch_size=None,
            sampler=sampler,
            collate_fn=collate,  # type: ignore[arg-type]  # the same
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            # A loader without one of its own draws its workers' seeds from the global generator.
            generator=torch.Generator().manual_seed(sampler.seed),
        )
        self.made_by, self.steps_done, self._step_sampler = made_by, steps_done, sampler

    def __iter__(self) -> Iterator[PreferenceBatch]:  # type: ignore[override]  # DataLoader names a private class
        """The batches of an epoch; where it begins is asked when the first is wanted.

        Lightning makes this iterator while it sets the optimizer up, before it restores where a checkpoint was taken
        and before it tells the sampler the epoch; workers would have drawn by then.
        """
        self._step_sampler.steps = self.steps_done()
        yield from super().__iter__()


def devices_of(trainer: Trainer | None) -> dict[str, int]:
    """Over how many devices pairs are dealt, `num_replicas`, and which of them this is, `rank`."""
    alone = {"num_replicas": 1, "rank": 0}
    return alone if trainer is None else getattr(trainer.strategy, "distributed_sampler_kwargs", alone)


def steps_done(trainer: Trainer) -> int:
    """Optimizer steps of the epoch that were done when it begins: 0 but in a resumed epoch.

    Raises:
        UserError: The checkpoint was taken between two micro-batches of one step.
    """
    loop, accumulate = trainer.fit_loop, trainer.accumulate_grad_batches
    trained = loop.epoch_loop.batch_progress.current.ready
    if trained % accumulate and trained < loop.max_batches:
        raise UserError(
            "the checkpoint was taken in the middle of an optimizer step, whose gradients it does not hold: go on from "
            "last.ckpt, which is taken between two steps"
        )
    return math.ceil(trained / accumulate)
