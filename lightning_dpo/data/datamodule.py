"""From a source of pairs to batches, in the order: read, validate, sample, split, tokenize, deal, lay out."""

import logging
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset, concatenate_datasets
from lightning import LightningDataModule
from transformers import PreTrainedTokenizerBase

from lightning_dpo.data.jsonl import load_pairs
from lightning_dpo.data.loader import DrawnPairs, StepLoader
from lightning_dpo.data.sampling import StepSampler, accumulation
from lightning_dpo.data.splitting import sample, split_by_prompt, without_prompts
from lightning_dpo.data.tokenization import Tokenization
from lightning_dpo.data.validation import valid
from lightning_dpo.errors import UserError
from lightning_dpo.layouts import PaddedLayout
from lightning_dpo.policy import load_tokenizer, ready_tokenizer

log = logging.getLogger(__name__)

Source = Callable[[str, str | Path | None], Dataset | None]
"""`load_pairs(split, path)`: the rows of `train` or `validation`; None where a source has no validation split."""


class PreferenceDataModule(LightningDataModule):
    """Preference pairs for `DPOModule`.

    Args:
        path: A file of pairs, in the source's format; None: what the source reads by itself.
        tokenizer: Hub id or folder, or the tokenizer.
        source: `load_pairs` of a module in `lightning_dpo.data`, or your own; None: that of `jsonl`.
        val_path: A file of validation pairs; None: the source's validation split, or a fraction of the training pairs.
        val_fraction: That fraction, in (0, 1), drawn by prompt.
        drop_seen_prompts: Leave training pairs out whose prompt stands in validation.
        max_length: Tokens that prompt and longer completion may have together.
        on_overlong: `drop` leaves longer pairs out, counted; `truncate` shortens them.
        on_invalid: `error` refuses a file with invalid rows; `drop` leaves them out, counted and listed.
        max_invalid_fraction: Share of invalid rows above which `drop` is an error as well.
        max_pairs: At most so many pairs, drawn by `seed`, a fraction of which validates; of a validation split of its
            own, as many again. None: all.
        pairs_per_step: Pairs in one optimizer step on all devices; None: what the Trainer's own accumulation gives.
        batch_size: Pairs in one forward pass on one device.
        num_workers: Processes that lay batches out ahead of time; 0: none.
        chosen_only: Lay out chosen completions alone, for a loss that reads no others (SFT).
        seed: Of the sample, the split and the order.
        folder: Where `invalid_rows.jsonl` is written; None: nowhere.
    """

    def __init__(
        self,
        path: str | None = None,
        *,
        tokenizer: str | PreTrainedTokenizerBase,
        source: Source | None = None,
        val_path: str | None = None,
        val_fraction: float = 0.05,
        drop_seen_prompts: bool = True,
        max_length: int = 1024,
        on_overlong: Literal["drop", "truncate"] = "drop",
        on_invalid: Literal["error", "drop"] = "error",
        max_invalid_fraction: float = 0.01,
        max_pairs: int | None = None,
        pairs_per_step: int | None = None,
        batch_size: int = 8,
        num_workers: int = 0,
        chosen_only: bool = False,
        seed: int = 0,
        folder: str | None = None,
    ) -> None:
        super().__init__()
        _check(locals())
        self.path, self.source, self.val_path, self.val_fraction = path, source or load_pairs, val_path, val_fraction
        self.drop_seen_prompts, self.max_pairs, self.seed = drop_seen_prompts, max_pairs, seed
        self.max_length, self.on_overlong = max_length, on_overlong
        self.on_invalid, self.max_invalid_fraction = on_invalid, max_invalid_fraction
        self.pairs_per_step, self.batch_size, self.num_workers = pairs_per_step, batch_size, num_workers
        self.chosen_only, self.folder = chosen_only, Path(folder) if folder else None
        self.tokenizer = load_tokenizer(tokenizer) if isinstance(tokenizer, str) else ready_tokenizer(tokenizer)
        self.train_pairs: Dataset | None = None
        self.val_pairs: Dataset | None = None
        self.counts: dict[str, int] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read and tokenize everything, once.

        Raises:
            UserError: Rows are invalid, or nothing is left to train or validate on.
        """
        if self.train_pairs is not None:
            return
        if self.folder:
            (self.folder / "invalid_rows.jsonl").unlink(missing_ok=True)
        train, val = self._split(self._valid(self.source("train", self.path)))
        self.train_pairs, self.val_pairs = self._tokenized(train, val)
        log.info("Pairs: %s.", ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in self.counts.items()))

    def train_dataloader(self) -> StepLoader:
        """Micro-batches in a new order every epoch."""
        accumulate = self.trainer.accumulate_grad_batches
        devices = self.trainer.world_size
        pairs_per_step = self.pairs_per_step or accumulate * self.batch_size * devices
        if (needed := accumulation(pairs_per_step, self.batch_size, devices)) != accumulate:
            raise UserError(
                f"pairs_per_step={pairs_per_step} with batch_size={self.batch_size} on {devices} device(s) needs "
                f"Trainer(accumulate_grad_batches={needed}), got {accumulate}"
            )
        # It is told that batches would be repeated after a resume; ours are not.
        warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch ended")
        progress = self.trainer.fit_loop.epoch_loop.batch_progress.current
        return self._loader(self.train_pairs, pairs_per_step, shuffle=True, trained=lambda: progress.ready)

    def val_dataloader(self) -> StepLoader:
        """Every validation pair once, as one step: what is a mean over a step is then a mean over all of them."""
        return self._loader(self.val_pairs, len(self.val_pairs), shuffle=False, trained=int)

    def place(self, row: int) -> str:
        """Where a training pair comes from: `file:line` where its source says, else its row among all that train."""
        return self.train_pairs["where"][row] if "where" in self.train_pairs.column_names else f"training row {row}"

    def state_dict(self) -> dict[str, int]:
        """What decides which pairs a micro-batch holds."""
        names = ("seed", "batch_size", "pairs_per_step", "max_length")
        return {name: getattr(self, name) for name in names} | {"training_pairs": len(self.train_pairs)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Refuse to go on in another order than the checkpoint was taken in.

        Raises:
            UserError: Something that decides the order is not what it was.
        """
        now = self.state_dict()
        changed = [f"{name} was {was} and is {now[name]}" for name, was in state.items() if was != now[name]]
        if changed:
            raise UserError(f"the checkpoint belongs to another order of pairs: {', '.join(changed)}; set it back")

    def _valid(self, pairs: Dataset) -> Dataset:
        kept = valid(pairs, self.on_invalid, self.max_invalid_fraction, self.folder)
        self.counts["invalid_left_out"] = self.counts.get("invalid_left_out", 0) + len(pairs) - len(kept)
        return kept

    def _split(self, pairs: Dataset) -> tuple[Dataset, Dataset]:
        val = self.source("validation", self.val_path) if self.val_path or self.path is None else None
        if val is None:
            return split_by_prompt(sample(pairs, self.max_pairs, self.seed), self.val_fraction, self.seed)
        val = self._valid(val)
        if self.drop_seen_prompts:
            everything = len(pairs)
            pairs = without_prompts(pairs, set(val["prompt"]))
            self.counts["training_pairs_whose_prompt_is_in_validation_left_out"] = everything - len(pairs)
            if len(pairs) == 0:
                raise UserError("data: every training prompt stands in validation: is data.val_path the training file?")
        return sample(pairs, self.max_pairs, self.seed), sample(val, self.max_pairs, self.seed)

    def _tokenized(self, train: Dataset, val: Dataset) -> list[Dataset]:
        """Both sides as tokens; together, so that what is invalid is a share of all."""
        tokenization = Tokenization(self.tokenizer, self.max_length, self.on_overlong)
        tokens = tokenization.tokenize(concatenate_datasets([train, val]))
        tokens = self._valid(tokens.add_column("side", ["train"] * len(train) + ["val"] * len(val)))
        of_side, overlong = tokens["side"][:], tokens["overlong"][:]
        kept = []
        for name in ("train", "val"):
            rows = [row for row, side in enumerate(of_side) if side == name]
            short = [row for row in rows if not overlong[row]]
            if not short:
                raise UserError(
                    f"data: no {name} pairs are left; {len(rows)} were longer than data.max_length={self.max_length}: "
                    "raise it, set data.on_overlong=truncate, or give more pairs"
                )
            self.counts |= {name: len(short), f"{name}_overlong_left_out": len(rows) - len(short)}
            kept.append(tokens.select(short))
        return kept

    def _loader(self, tokens: Dataset, pairs_per_step: int, shuffle: bool, trained: Callable[[], int]) -> StepLoader:
        sampler = StepSampler(
            [len(ids) for ids in tokens["chosen_ids"]],
            pairs_per_step,
            self.batch_size,
            num_replicas=self.trainer.world_size,
            rank=self.trainer.global_rank,
            shuffle=shuffle,
            seed=self.seed,
        )
        layout = PaddedLayout(self.tokenizer.pad_token_id, self.chosen_only)
        return StepLoader(DrawnPairs(tokens), sampler, layout, self.num_workers, trained)


def _check(arguments: dict[str, Any]) -> None:
    choices: dict[str, Iterable[str]] = {"on_overlong": ("drop", "truncate"), "on_invalid": ("error", "drop")}
    for name, allowed in choices.items():
        if arguments[name] not in allowed:
            raise ValueError(f"{name} must be {' or '.join(allowed)}, got {arguments[name]!r}")
    for name in ("max_length", "batch_size", "max_pairs", "pairs_per_step"):
        if arguments[name] is not None and not arguments[name] >= 1:
            raise ValueError(f"{name} must be at least 1, got {arguments[name]!r}")
    if not 0 < arguments["val_fraction"] < 1:
        raise ValueError(f"val_fraction must be between 0 and 1, got {arguments['val_fraction']!r}")
    if not 0 <= arguments["max_invalid_fraction"] <= 1:
        raise ValueError(f"max_invalid_fraction must be in [0, 1], got {arguments['max_invalid_fraction']!r}")
