"""Preference pairs for a Trainer: prepared once, dealt in an order that a resume goes on with, laid out in batches."""

import logging
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset
from lightning import LightningDataModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from transformers import PreTrainedTokenizerBase

from lightning_dpo.batch import MicroBatch
from lightning_dpo.data.arguments import check_arguments
from lightning_dpo.data.preparation import Preparation, PreparedPairs, Source, parts_of
from lightning_dpo.data.sources.jsonl import jsonl_pairs
from lightning_dpo.data.steps.forward_size import StreamTokens, check_max_tokens, largest_forward, longest_rows
from lightning_dpo.data.steps.loader import Collator, DrawnPairs, StepLoader, devices_of, steps_done
from lightning_dpo.data.steps.resume import check_same_pairs
from lightning_dpo.data.steps.sampler import Draw, StepSampler, fitting_batch_size, pairs_of_step
from lightning_dpo.data.tokens.lengths import prompt_numbers, scored_lengths
from lightning_dpo.data.tokens.tokenization import Tokenization
from lightning_dpo.errors import UserError
from lightning_dpo.layouts import Layout, LayoutName, Layouts, PaddedLayout, SharedLayout
from lightning_dpo.models.causal_lm import load_tokenizer, ready_tokenizer
from lightning_dpo.training.trainer_attributes import datamodule_of

log = logging.getLogger(__name__)


class PreferenceDataModule(LightningDataModule):
    """Preference pairs for `DPOModule`.

    Args:
        path: A file of pairs, in the source's format; None: what the source reads by itself. With several sources: a
            file for each that is not read that way, by name.
        tokenizer: Hub id or folder, or the tokenizer.
        source: A function of `lightning_dpo.data.sources`, or your own; None: `jsonl_pairs`. Several, by name,
            for a mixture.
        sources: For a mixture: which of them take part, and how often the training pairs of each are taken (0.5: a
            half of them; 2: each twice).
        val_path: A file of validation pairs; None: the source's validation split, or a fraction of the training pairs.
            With several sources: by name.
        val_fraction: That fraction, in (0, 1), drawn by prompt.
        drop_seen_prompts: Leave training pairs out whose prompt stands in validation.
        max_length: Tokens that prompt and longer completion may have together.
        on_overlong: `drop` leaves longer pairs out, counted; `truncate` shortens them.
        score: Of messages: `last`, the answer's last turn; `all`, every turn of the assistant.
        chat_template_kwargs: Arguments of the chat template, where a row does not set them.
        on_invalid: `error` refuses a file with invalid rows; `drop` leaves them out, counted and listed.
        max_invalid_fraction: Share of invalid rows above which `drop` is an error as well.
        max_pairs: Limit of a source's pairs, drawn by `seed`, and of those of its own validation split; None: all.
        pairs_per_step: Pairs in one optimizer step on all devices; None: what the Trainer's own accumulation gives.
        batch_size: Pairs in one forward pass on one device, or fewer: what divides its share of `pairs_per_step`.
        max_tokens: Tokens, pads included, that one forward pass may have; None: however many.
        layout: `shared` lays each prompt of a micro-batch out once, without pads; `padded`, before each of its
            completions. `auto`: shared, where that gives the policy's log-probs, which `DPOModule` tries at the start.
        group_by_prompt: Bring the pairs of one prompt together, where it has several.
        num_workers: Processes that lay batches out ahead of time; 0: none.
        chosen_only: Lay out chosen completions alone, for a loss that reads no others (SFT).
        seed: Of the sample, the split and the order.
        folder: Where `invalid_rows.jsonl` is written; None: nowhere.
    """

    def __init__(
        self,
        path: str | Mapping[str, str] | None = None,
        *,
        tokenizer: str | PreTrainedTokenizerBase,
        source: Source | Mapping[str, Source] | None = None,
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
            parts_of(source or jsonl_pairs, sources, path, val_path),
            Tokenization(tokenizer, max_length, on_overlong, score, chat_template_kwargs or {}),
            val_fraction,
            drop_seen_prompts,
            on_invalid,
            max_invalid_fraction,
            max_pairs,
            seed,
            Path(folder) if folder and getattr(rank_zero_only, "rank", 0) == 0 else None,
        )
        self.tokenizer, self.max_length, self.seed, self.chosen_only = tokenizer, max_length, seed, chosen_only
        self.pairs_per_step, self.batch_size, self.num_workers = pairs_per_step, batch_size, num_workers
        self.max_tokens, self.layout, self.group_by_prompt = max_tokens, layout, group_by_prompt
        self.layouts = Layouts(PaddedLayout(tokenizer.pad_token_id, chosen_only), SharedLayout(chosen_only))
        self.collate = Collator(self.layouts.shared if layout == "shared" else self.layouts.padded)
        self.prepared: PreparedPairs | None = None
        self.prepared_alone = False

    def setup(self, stage: str | None = None) -> None:
        """Read and tokenize, once: everything, or before a validation what validates.

        Raises:
            UserError: Rows are invalid, or nothing is left to train or validate on, or `max_tokens` is exceeded.
        """
        alone = stage == "validate"
        if self.trainer and not alone:
            self.fit_batch_size(devices_of(self.trainer)["num_replicas"])
        if self.prepared is None or (not alone and self.prepared_alone):
            self.prepared, self.prepared_alone = self.preparation(alone), alone
            if self.layout != "auto":
                self.use_layout(self.collate.layout)

    def fit_batch_size(self, devices: int) -> None:
        """Reduce `batch_size`, which changes memory only, until it divides a device's share of `pairs_per_step`."""
        if self.pairs_per_step is not None:
            self.batch_size = fitting_batch_size(self.pairs_per_step, self.batch_size, devices)

    @classmethod
    def of(cls, trainer: Trainer, callback: object) -> "PreferenceDataModule":
        """The data module of `trainer`, for `callback`.

        Raises:
            UserError: It has none of this class.
        """
        data = datamodule_of(trainer)
        if not isinstance(data, cls):
            raise UserError(f"{type(callback).__name__} needs a {cls.__name__}: give one to fit() or validate()")
        return data

    @property
    def pairs(self) -> PreparedPairs:
        """What `setup` prepared."""
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
        """Names of the sources, by the index that pairs have."""
        return self.pairs.sources

    @property
    def counts(self) -> dict[str, int]:
        """Pairs by what became of them."""
        return self.pairs.counts

    def train_dataloader(self) -> StepLoader:
        """Micro-batches in a new order every epoch."""
        if self.trainer is None:
            raise RuntimeError("train_dataloader() needs the Trainer: its accumulation decides what a step is")
        devices, accumulate = devices_of(self.trainer)["num_replicas"], self.trainer.accumulate_grad_batches
        pairs_per_step = pairs_of_step(self.pairs_per_step, self.batch_size, devices, accumulate)
        # It is told that batches would be repeated after a resume; ours are not.
        warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch ended")
        sampler = self._sampler(self.train_pairs, pairs_per_step, self.seed)
        if accumulate * devices > 1:
            ratios = ", ".join(f"{name} {ratio:.2f}" for name, ratio in sampler.unevenness().items())
            log.info("Tokens of a step, each prompt counted once, the largest over the mean: %s.", ratios)
        return self._loader(self.train_pairs, sampler, partial(steps_done, self.trainer))

    def val_dataloader(self) -> StepLoader:
        """Every validation pair once, as one step: what is a mean over a step is then a mean over all of them."""
        return self._loader(self.val_pairs, self._sampler(self.val_pairs, len(self.val_pairs), None), int)

    def longest_pairs(self, count: int) -> MicroBatch:
        """The `count` longest pairs, to try a policy on."""
        pairs = self.train_pairs if len(self.train_pairs) else self.val_pairs
        rows = longest_rows(pairs, count, self.chosen_only)
        return DrawnPairs(pairs)[Draw(rows, [True] * len(rows), len(rows), 1)]

    def use_layout(self, layout: Layout) -> None:
        """Use `layout` for all batches drawn from now on.

        Raises:
            UserError: A forward pass may then have more than `max_tokens`.
        """
        self.collate.layout = layout
        if self.max_tokens is not None:
            of_step, shared = self.pairs_per_step or self.batch_size, layout is self.layouts.shared
            for tokens in filter(None, (self.val_pairs, self.train_pairs)):
                check_max_tokens(tokens, self.batch_size, self.max_tokens, of_step, self.chosen_only, shared)

    def place(self, row: int) -> str:
        """Where a training pair comes from: `file:line`, or its row in what the source gave."""
        return self.train_pairs["where"][row]

    def largest_batch(self) -> tuple[int, int]:
        """Tokens, pads included, and scored positions of a micro-batch of the longest training pairs.

        Of padded rows, the larger ones, while the layout is not chosen yet.
        """
        shared = self.collate.layout is self.layouts.shared
        return largest_forward(self.train_pairs, self.batch_size, self.chosen_only, shared)

    def state_dict(self) -> dict[str, Any]:
        """What decides which pairs a micro-batch holds, and what is in them."""
        names = ("seed", "batch_size", "pairs_per_step", "max_length", "group_by_prompt")
        found = {"training_pairs": len(self.train_pairs), "devices": devices_of(self.trainer)["num_replicas"]}
        digests = {"tokenizer": self.preparation.tokenization.digest, "set of training pairs": self.pairs.digest}
        return {name: getattr(self, name) for name in names} | found | {"digests": digests}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Refuse to resume on other pairs, or in another order, than the checkpoint was taken with."""
        if self.trainer and self.trainer.state.fn != "fit":  # the order of training means nothing there
            return
        check_same_pairs(self.state_dict(), state)

    def _sampler(self, tokens: Dataset, pairs_per_step: int, seed: int | None) -> StepSampler:
        """Shuffled by `seed`, with even micro-batches; without one, in order."""
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
        return StepLoader(DrawnPairs(tokens), sampler, self.collate, self, self.num_workers, done)
