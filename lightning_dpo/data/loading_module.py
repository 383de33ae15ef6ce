"""A data module with the loaders of its prepared pairs."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import cast

from datasets import Dataset
from lightning import Trainer
from lightning.pytorch.trainer.states import TrainerFn

from lightning_dpo.data.preparation import Preparation
from lightning_dpo.data.prepared_module import PreparedDataModule
from lightning_dpo.data.steps.forward_size import StreamTokens
from lightning_dpo.data.steps.loader import Collator, MicroBatches, ReferenceLogps, StepLoader, devices_of, steps_done
from lightning_dpo.data.steps.run_rows import rows_trained, rows_validated
from lightning_dpo.data.steps.sampler import StepSampler, pairs_of_step
from lightning_dpo.data.tokens.lengths import PairLengths


class LoadingDataModule(PreparedDataModule):
    """The loaders of `PreferenceDataModule`, which documents the attributes that are its arguments.

    Args:
        preparation: Prepares the pairs.
        collate: Converts micro-batches to batches.

    Attributes:
        reference_logps: Returns the reference's log-probs of completions, for the loaders that are made next; None:
            batches do not contain them.
    """

    batch_size: int
    pairs_per_step: int | None
    seed: int
    chosen_only: bool
    group_by_prompt: bool
    num_workers: int

    def __init__(self, preparation: Preparation, collate: Collator) -> None:
        super().__init__(preparation)
        self.collate = collate
        self.reference_logps: ReferenceLogps | None = None

    def train_dataloader(self) -> StepLoader:
        """Loader of training batches, in a new order every epoch."""
        if self.trainer is None:  # to look at batches
            pairs_per_step, done = self.pairs_per_step or self.batch_size, cast(Callable[[], int], int)
        else:
            pairs_per_step, done = self._pairs_per_step(self.trainer), partial(steps_done, self.trainer)
        # Lightning warns that batches would be repeated after a resume. This sampler continues where the run stopped.
        warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch ended")
        return self._loader(self.train_pairs, self._sampler(self.train_pairs, pairs_per_step, self.seed), done)

    def val_dataloader(self) -> StepLoader:
        """Loader of all validation pairs as one step, so that a mean over the step is a mean over all pairs."""
        return self._loader(self.val_pairs, self._sampler(self.val_pairs, len(self.val_pairs), None), int)

    def test_dataloader(self) -> StepLoader:
        """The loader of validation pairs."""
        return self.val_dataloader()

    def predict_dataloader(self) -> StepLoader:
        """The loader of validation pairs."""
        return self.val_dataloader()

    def pairs_read(self, trainer: Trainer) -> list[Dataset]:
        """The pairs that a run of `trainer` reads: those of its training steps, in `fit`, and of its validations."""
        val, val_size = self.val_pairs, min(self.batch_size, len(self.val_pairs))
        read = [val.select(rows_validated(trainer, len(val), val_size))]
        if trainer.state.fn == TrainerFn.FITTING:
            per_step = self.pairs_per_step or self._pairs_per_step(trainer)
            rows = rows_trained(
                trainer, len(self.train_pairs), per_step, lambda: self._sampler(self.train_pairs, per_step, self.seed)
            )
            read.append(self.train_pairs.select(rows))
        return [pairs for pairs in read if len(pairs)]

    def _pairs_per_step(self, trainer: Trainer) -> int:
        devices = devices_of(trainer)["num_replicas"]
        return pairs_of_step(self.pairs_per_step, self.batch_size, devices, trainer.accumulate_grad_batches)

    def _sampler(self, tokens: Dataset, pairs_per_step: int, seed: int | None) -> StepSampler:
        """A sampler that shuffles with `seed` and balances micro-batches; without a seed, one that keeps the order."""
        lengths = PairLengths.of(tokens)
        return StepSampler(
            lengths.chosen_scored.tolist(),
            pairs_per_step,
            self.batch_size,
            tokens=None if seed is None else StreamTokens(lengths, self.chosen_only),
            prompts=lengths.prompt_id.tolist() if self.group_by_prompt else None,
            shuffle=seed is not None,
            seed=seed or 0,
            **devices_of(self.trainer),
        )

    def _loader(self, tokens: Dataset, sampler: StepSampler, done: Callable[[], int]) -> StepLoader:
        pairs = MicroBatches(tokens, self.reference_logps, self.chosen_only)
        return StepLoader(pairs, sampler, self.collate, self, self.num_workers, done)
