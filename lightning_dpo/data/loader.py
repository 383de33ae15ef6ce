"""Micro-batches from tokenized pairs, and where a resumed run goes on."""

from collections.abc import Callable, Iterator
from dataclasses import fields

import datasets
import torch
from torch.utils.data import DataLoader, Dataset

from lightning_dpo.batch import PreferenceBatch
from lightning_dpo.data.pairs import MicroBatch, TokenizedPair
from lightning_dpo.data.sampling import Draw, StepSampler


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


class StepLoader(DataLoader[PreferenceBatch]):
    """Batches as `sampler` draws them; in a resumed run, from behind those that were trained on.

    Args:
        pairs: What is drawn from.
        sampler: What is drawn.
        layout: Makes a batch of a micro-batch.
        num_workers: Processes that do so ahead of time; 0: none.
        trained: Micro-batches of the epoch that were trained on when it begins: 0 but in a resumed epoch.
    """

    def __init__(
        self,
        pairs: DrawnPairs,
        sampler: StepSampler,
        layout: Callable[[MicroBatch], PreferenceBatch],
        num_workers: int,
        trained: Callable[[], int] = int,
    ) -> None:
        super().__init__(
            pairs,
            batch_size=None,
            sampler=sampler,
            collate_fn=layout,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            # A loader without one of its own draws its workers' seeds from the global generator.
            generator=torch.Generator().manual_seed(sampler.seed),
        )
        self.trained = trained

    def __iter__(self) -> Iterator[PreferenceBatch]:
        """The batches of an epoch; where it begins is asked when the first is wanted.

        Lightning makes this iterator while it sets the optimizer up, before it restores where a checkpoint was taken
        and before it tells the sampler the epoch; workers would have drawn by then.
        """
        self.sampler.skip = self.trained()
        yield from super().__iter__()
