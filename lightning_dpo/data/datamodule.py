"""Preference pairs for a Trainer: prepared once, in an order that a resumed run continues, and batched."""

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

from datasets import Dataset
from lightning import LightningDataModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from transformers import PreTrainedTokenizerBase

from lightning_dpo.batch import MicroBatch
from lightning_dpo.data.arguments import check_arguments, without_effect
from lightning_dpo.data.parts import parts_of
from lightning_dpo.data.preparation import Preparation, PreparedPairs
from lightning_dpo.data.rows.pairs import Rows, ToPair
from lightning_dpo.data.sources.jsonl import jsonl_pair
from lightning_dpo.data.steps.forward_size import StreamTokens, check_max_tokens, largest_forward, longest_rows
from lightning_dpo.data.steps.loader import Collator, MicroBatches, StepLoader, devices_of, steps_done
from lightning_dpo.data.steps.sampler import MicroBatchRows, StepSampler, fitting_batch_size, pairs_of_step
from lightning_dpo.data.tokens.lengths import prompt_numbers, scored_lengths
from lightning_dpo.data.tokens.tokenization import Tokenization
from lightning_dpo.errors import UserError
from lightning_dpo.layouts import Layout, LayoutName, Layouts, PaddedLayout, SharedLayout
from lightning_dpo.models.tokenizers import load_tokenizer, ready_tokenizer
from lightning_dpo.training.trainer_attributes import datamodule_of

_ORDER = ("seed", "batch_size", "pairs_per_step", "group_by_prompt")


class PreferenceDataModule(LightningDataModule):
    """Preference pairs for `DPOModule`.

    Args:
        path: A file of training pairs; None: read `rows`. For a mixture: a dict of files by dataset.
        tokenizer: Hub id or folder, or the tokenizer.
        source: A function that converts a row to a pair: one of `lightning_dpo.data.sources`, or your own; None:
            `jsonl_pair`. For a mixture: a dict of functions by dataset.
        rows: Rows by split, such as `HubRows("org/name")`, read if `path` is None. For a mixture: by dataset.
        sources: For a mixture: the datasets to use, with a weight each. 0.5 uses half of its training pairs, 2 uses
            each pair twice.
        val_path: A file of validation pairs; None: the validation split of `rows`, or a fraction of the training pairs.
            For a mixture: by dataset.
        val_fraction: Fraction of training pairs to hold out, in (0, 1). All pairs of a prompt are in one split.
        drop_seen_prompts: Remove training pairs whose prompt is also in the validation set.
        max_length: Maximum number of tokens of the prompt and the longer completion together.
        on_overlong: `drop` removes longer pairs and counts them; `truncate` shortens them.
        score: For messages: `last` trains on the last turn of the answer, `all` on every turn of the assistant.
        chat_template_kwargs: Arguments of the chat template. Those of a row take precedence.
        on_invalid: `error` rejects a file with invalid rows; `drop` removes these rows and lists them.
        max_invalid_fraction: With `drop`, the maximum fraction of invalid rows.
        max_pairs: Maximum number of pairs per source and split, sampled with `seed`; None: all.
        pairs_per_step: Pairs in one optimizer step on all devices; None: derived from the Trainer's accumulation.
        batch_size: Pairs in one forward pass on one device, reduced until it divides the device's `pairs_per_step`.
        max_tokens: Maximum number of tokens, padding included, in one forward pass; None: no limit.
        layout: `shared` contains each prompt of a micro-batch once, without padding; `padded` repeats it before each
            completion; `auto` uses `shared` if both give the same log-probs, which `DPOModule` tests.
        group_by_prompt: Put pairs with the same prompt into the same micro-batch.
        num_workers: Worker processes that prepare batches; 0: none.
        chosen_only: Whether batches contain only chosen completions, for a loss that does not read rejected ones (SFT).
        seed: Random seed of the subset, the split and the order of the pairs.
        folder: Folder of `invalid_rows.jsonl`; None: it is not written.
    """

    without_effect = staticmethod(without_effect)

    def __init__(
        self,
        path: str | Mapping[str, str] | None = None,
        *,
        tokenizer: str | PreTrainedTokenizerBase,
        source: ToPair | Mapping[str, ToPair] | None = None,
        rows: Rows | Mapping[str, Rows] | None = None,
        sources: Mapping[str, float] | None = None,
        val_path: str | Mapping[str, str] | None = None,
        val_fraction: float = 0.05,
        drop_seen_prompts: bool = True,
        max_length: int = 1024,
        on_overlong: Literal["drop", "truncate"] = "drop",
        score: Literal["last", "all"] = "last",
        chat_template_kwargs: Mapping[str, object] | None = None,
        on_invalid: Literal["error", "drop"] = "error",
        max_invalid_fraction: float = 0.01,
        max_pairs: int | None = None,
        pairs_per_step: int | None = None,
        batch_size: int = 8,
        max_tokens: int | None = None,
        layout: LayoutName = "auto",
        group_by_prompt: bool = False,
        num_workers: int = 0,
        chosen_only: bool = False,
        seed: int = 0,
        folder: str | None = None,
    ) -> None:
        super().__init__()
        check_arguments(locals())
        tokenizer = load_tokenizer(tokenizer) if isinstance(tokenizer, str) else ready_tokenizer(tokenizer)
        self.preparation = Preparation(
            parts_of(source or jsonl_pair, rows, sources, path, val_path),
            Tokenization(tokenizer, max_length, on_overlong, score, chat_template_kwargs or {}),
            val_fraction,
            drop_seen_prompts,
            on_invalid,
            max_invalid_fraction,
            max_pairs,
            seed,
            # Lightning reads this rank from the environment at import. Only the first rank writes the file.
            Path(folder) if folder and getattr(rank_zero_only, "rank", 0) == 0 else None,
        )
        self.tokenizer, self.max_length, self.seed, self.chosen_only = tokenizer, max_length, seed, chosen_only
        self.pairs_per_step, self.batch_size, self.num_workers = pairs_per_step, batch_size, num_workers
        self.max_tokens, self.layout, self.group_by_prompt = max_tokens, layout, group_by_prompt
        self.layouts = Layouts(PaddedLayout(tokenizer.eos_token_id, chosen_only), SharedLayout(chosen_only))
        self.collate = Collator(self.layouts.shared if layout == "shared" else self.layouts.padded)
        self.prepared: PreparedPairs | None = None
        self.prepared_validation_only = False

    def setup(self, stage: str | None = None) -> None:
        """Read and tokenize, once. Before a validation outside `fit`, only validation pairs.

        Raises:
            UserError: Rows are invalid, no pairs are left, or `max_tokens` is exceeded.
        """
        validation_only = stage == "validate"
        if self.trainer and not validation_only:
            self.fit_batch_size(devices_of(self.trainer)["num_replicas"])
        if self.prepared is None or (not validation_only and self.prepared_validation_only):
            self.prepared = self.preparation(validation_only)
            self.prepared_validation_only = validation_only
            if self.layout != "auto":
                self.use_layout(self.collate.layout)

    def fit_batch_size(self, devices: int) -> None:
        """Reduce `batch_size` until it divides a device's share of `pairs_per_step`. This affects only memory."""
        if self.pairs_per_step is not None:
            self.batch_size = fitting_batch_size(self.pairs_per_step, self.batch_size, devices)

    @classmethod
    def of(cls, trainer: Trainer, callback: object) -> "PreferenceDataModule":
        """The data module of `trainer`, for `callback`.

        Raises:
            UserError: The Trainer has no data module of this class.
        """
        data = datamodule_of(trainer)
        if not isinstance(data, cls):
            raise UserError(f"{type(callback).__name__} needs a {cls.__name__}: pass one to fit() or validate()")
        return data

    @property
    def pairs(self) -> PreparedPairs:
        """The prepared pairs, after `setup`."""
        if self.prepared is None:
            raise RuntimeError("the data module has no pairs before setup()")
        return self.prepared

    @property
    def train_pairs(self) -> Dataset:
        """The tokenized training pairs, after `setup`."""
        return self.pairs.train

    @property
    def val_pairs(self) -> Dataset:
        """The tokenized validation pairs, after `setup`."""
        return self.pairs.val

    @property
    def sources(self) -> list[str]:
        """Names of the sources, by index."""
        return self.pairs.sources

    @property
    def columns(self) -> frozenset[str]:
        """Numeric columns that the sources map; after `setup`, those with values that have an effect."""
        return self.preparation.columns if self.prepared is None else self.prepared.columns

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of pairs that were kept, removed and truncated."""
        return self.pairs.counts

    def train_dataloader(self) -> StepLoader:
        """Loader of training batches, in a new order every epoch."""
        if self.trainer is None:
            raise RuntimeError("train_dataloader() needs the Trainer: its accumulation decides what a step is")
        devices, accumulate = devices_of(self.trainer)["num_replicas"], self.trainer.accumulate_grad_batches
        pairs_per_step = pairs_of_step(self.pairs_per_step, self.batch_size, devices, accumulate)
        # Lightning warns that batches would be repeated after a resume. This sampler continues where the run stopped.
        warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch ended")
        sampler = self._sampler(self.train_pairs, pairs_per_step, self.seed)
        if accumulate * devices > 1:
            sampler.log_unevenness()
        return self._loader(self.train_pairs, sampler, partial(steps_done, self.trainer))

    def val_dataloader(self) -> StepLoader:
        """Loader of all validation pairs as one step, so that a mean over the step is a mean over all pairs."""
        return self._loader(self.val_pairs, self._sampler(self.val_pairs, len(self.val_pairs), None), int)

    def longest_pairs(self, count: int) -> MicroBatch:
        """The `count` longest pairs, to test a policy on."""
        pairs = self.train_pairs if len(self.train_pairs) else self.val_pairs
        rows = longest_rows(pairs, count, self.chosen_only)
        return MicroBatches(pairs)[MicroBatchRows(rows, [True] * len(rows), len(rows), 1)]

    def use_layout(self, layout: Layout) -> None:
        """Use `layout` for all following batches; raises UserError if one could have more than `max_tokens`."""
        self.collate.layout = layout
        if self.max_tokens is not None:
            of_step, shared = self.pairs_per_step or self.batch_size, layout is self.layouts.shared
            for tokens in filter(None, (self.val_pairs, self.train_pairs)):
                check_max_tokens(tokens, self.batch_size, self.max_tokens, of_step, self.chosen_only, shared)

    def place(self, row: int) -> str:
        """Location of a training pair: `file:line`, or its row in the source."""
        return self.train_pairs["where"][row]

    def largest_batch(self) -> tuple[int, int]:
        """Tokens, padding included, and scored positions of a micro-batch of the longest training pairs."""
        shared = self.layout_name == "shared"  # until the layout is chosen, padded: the larger one
        return largest_forward(self.train_pairs, self.batch_size, self.chosen_only, shared)

    @property
    def facts(self) -> dict[str, dict[str, str]]:
        """What identifies a training, by kind: the pairs, the tokenizer, and the order of the pairs. After `setup`."""
        order = {f"data.{name}": str(getattr(self, name)) for name in _ORDER}
        order["the number of devices"] = str(devices_of(self.trainer)["num_replicas"])
        return {"order": order, "tokenizer": self.preparation.tokenization.digests, "data": self.pairs.facts}

    @property
    def layout_name(self) -> str:
        """`shared` or `padded`: the layout of the next batches."""
        return "shared" if self.collate.layout is self.layouts.shared else "padded"

    def _sampler(self, tokens: Dataset, pairs_per_step: int, seed: int | None) -> StepSampler:
        """A sampler that shuffles with `seed` and balances micro-batches; without a seed, one that keeps the order."""
        return StepSampler(
            scored_lengths(tokens, "chosen").tolist(),
            pairs_per_step,
            self.batch_size,
            tokens=None if seed is None else StreamTokens(tokens, self.chosen_only),
            prompts=prompt_numbers(tokens).tolist() if self.group_by_prompt else None,
            shuffle=seed is not None,
            seed=seed or 0,
            **devices_of(self.trainer),
        )

    def _loader(self, tokens: Dataset, sampler: StepSampler, done: Callable[[], int]) -> StepLoader:
        return StepLoader(MicroBatches(tokens), sampler, self.collate, self, self.num_workers, done)
