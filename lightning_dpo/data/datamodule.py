"""Preference pairs for a Trainer: prepared once, in an order that a resumed run continues, and batched."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, cast

from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_only
from transformers import PreTrainedTokenizerBase

from lightning_dpo.batch import MicroBatch
from lightning_dpo.data.arguments import check_arguments, without_effect
from lightning_dpo.data.loading_module import LoadingDataModule
from lightning_dpo.data.parts import RowsArgument, parts_of
from lightning_dpo.data.preparation import Preparation
from lightning_dpo.data.rows.pairs import ToPair
from lightning_dpo.data.sources.jsonl import jsonl_pair
from lightning_dpo.data.steps.forward_size import check_max_tokens, largest_forward, longest_rows
from lightning_dpo.data.steps.loader import Collator, MicroBatches, devices_of
from lightning_dpo.data.steps.sampler import MicroBatchRows, fitting_batch_size
from lightning_dpo.data.tokens.tokenization import Tokenization
from lightning_dpo.errors import UserError
from lightning_dpo.layouts import Layout, LayoutName, Layouts, PaddedLayout, SharedLayout
from lightning_dpo.models.tokenizers import load_tokenizer, ready_tokenizer
from lightning_dpo.training.trainer_attributes import datamodule_of

_ORDER = ("seed", "batch_size", "pairs_per_step", "group_by_prompt")


class PreferenceDataModule(LoadingDataModule):
    """Preference pairs for `DPOModule`.

    Args:
        path: A file of training pairs; None: read `rows`. For a mixture: a dict of files by dataset.
        tokenizer: Hub id or folder, or the tokenizer.
        source: A function that converts a row to a pair: one of `lightning_dpo.data.sources`, or your own; None:
            `jsonl_pair`. For a mixture: a dict of functions by dataset.
        rows: Rows, read if `path` is None: a function of the split such as `HubRows("org/name")`, a list of dicts or a
            `datasets.Dataset` of training rows, or a dict of these by split. For a mixture: by dataset.
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
        batch_size: Pairs in one forward pass on one device, reduced until it divides the device's `pairs_per_step`;
            `auto`: the largest size that the memory estimate allows.
        max_tokens: Maximum number of tokens, padding included, in one forward pass; None: no limit.
        layout: `shared` contains each prompt of a micro-batch once, without padding; `padded` repeats it before each
            completion; `auto` uses `shared` if both give the same log-probs, which `DPOModule` tests.
        group_by_prompt: Put pairs with the same prompt into the same micro-batch.
        num_proc: Processes that tokenize; None: one per CPU core if there are many pairs.
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
        rows: RowsArgument = None,
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
        batch_size: int | Literal["auto"] = 8,
        max_tokens: int | None = None,
        layout: LayoutName = "auto",
        group_by_prompt: bool = False,
        num_proc: int | None = None,
        num_workers: int = 0,
        chosen_only: bool = False,
        seed: int = 0,
        folder: str | None = None,
    ) -> None:
        check_arguments(locals())
        tokenizer = load_tokenizer(str(tokenizer)) if isinstance(tokenizer, str | Path) else ready_tokenizer(tokenizer)
        preparation = Preparation(
            parts_of(source or jsonl_pair, rows, sources, path, val_path),
            Tokenization(tokenizer, max_length, on_overlong, score, chat_template_kwargs or {}, num_proc),
            val_fraction,
            drop_seen_prompts,
            on_invalid,
            max_invalid_fraction,
            max_pairs,
            seed,
            # Lightning reads this rank from the environment at import. Only the first rank writes the file.
            Path(folder) if folder and getattr(rank_zero_only, "rank", 0) == 0 else None,
        )
        self.layouts = Layouts(PaddedLayout(tokenizer.eos_token_id, chosen_only), SharedLayout(chosen_only))
        collate = Collator(self.layouts.shared if layout == "shared" else self.layouts.padded)
        super().__init__(preparation, collate)
        self.tokenizer, self.max_length, self.seed, self.chosen_only = tokenizer, max_length, seed, chosen_only
        # `auto` starts from the largest candidate; every `fit` sets the size that fits into memory.
        self.auto_batch_size, self._chosen = batch_size == "auto", False
        self.batch_size = cast(int, pairs_per_step if self.auto_batch_size else batch_size)
        self.pairs_per_step, self.num_workers = pairs_per_step, num_workers
        self.max_tokens, self.layout, self.group_by_prompt = max_tokens, layout, group_by_prompt

    def setup(self, stage: str | None = None) -> None:
        """Read and tokenize, once. Before a validation, test or prediction, only validation pairs.

        Raises:
            UserError: Rows are invalid, no pairs are left, or `max_tokens` is exceeded.
        """
        validation_only = stage in ("validate", "test", "predict")
        if validation_only and self.auto_batch_size and not self._chosen:
            raise UserError("data.batch_size=auto is chosen for training: set a number of pairs")
        if self.trainer and not validation_only and not self.auto_batch_size:
            self.fit_batch_size(devices_of(self.trainer)["num_replicas"])
        if self.prepare(validation_only) and not self.auto_batch_size:
            self._check_layout()

    def fit_batch_size(self, devices: int) -> None:
        """Reduce `batch_size` until it divides a device's share of `pairs_per_step`. This affects only memory."""
        if self.pairs_per_step is not None:
            self.batch_size = fitting_batch_size(self.pairs_per_step, self.batch_size, devices)

    def batch_sizes(self) -> list[int]:
        """The sizes that `batch_size=auto` chooses from, the largest first: divisors of a device's share of a step."""
        share = cast(int, self.pairs_per_step) // devices_of(self.trainer)["num_replicas"]
        return [size for size in range(share, 0, -1) if share % size == 0]

    def use_batch_size(self, size: int) -> None:
        """Set the size that was chosen for `batch_size=auto`; raises UserError if `max_tokens` is exceeded."""
        self.batch_size, self._chosen = size, True
        self._check_layout()

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

    def longest_pairs(self, count: int) -> MicroBatch:
        """The `count` longest pairs, to test a policy on."""
        pairs = self.train_pairs if len(self.train_pairs) else self.val_pairs
        rows = longest_rows(pairs, count, self.chosen_only)
        return MicroBatches(pairs)[MicroBatchRows(rows, [True] * len(rows), len(rows), 1)]

    def use_layout(self, layout: Layout) -> None:
        """Use `layout` for all following batches; raises UserError if one could have more than `max_tokens`."""
        self.collate.layout = layout
        # A size that is chosen automatically is not known yet.
        if self.max_tokens is not None and (self._chosen or not self.auto_batch_size):
            of_step, shared = self.pairs_per_step or self.batch_size, layout is self.layouts.shared
            for tokens in filter(None, (self.val_pairs, self.train_pairs)):
                check_max_tokens(tokens, self.batch_size, self.max_tokens, of_step, self.chosen_only, shared)

    def largest_batch(self, size: int | None = None) -> tuple[int, int]:
        """Tokens, padding included, and scored positions of a micro-batch of the longest pairs.

        Args:
            size: Pairs in the micro-batch; None: `batch_size`.
        """
        shared = self.layout_name == "shared"  # until the layout is chosen, padded: the larger one
        sides = filter(len, (self.train_pairs, self.val_pairs))
        tokens, scored = zip(
            *(largest_forward(pairs, size or self.batch_size, self.chosen_only, shared) for pairs in sides), strict=True
        )
        return max(tokens), max(scored)

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

    def _check_layout(self) -> None:
        if self.layout != "auto":
            self.use_layout(self.collate.layout)
