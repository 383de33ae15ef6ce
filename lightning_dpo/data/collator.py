"""Batches for a DataLoader of your own."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from lightning_dpo.batch import MicroBatch, PreferenceBatch, TokenizedPair
from lightning_dpo.data.rows.pairs import ToPair
from lightning_dpo.data.rows.reading import RowCounts, checked_pairs
from lightning_dpo.data.sources.jsonl import jsonl_pair
from lightning_dpo.data.tokens.tokenization import Tokenization
from lightning_dpo.errors import UserError
from lightning_dpo.layouts import PaddedLayout
from lightning_dpo.models.tokenizers import ready_tokenizer


class PreferenceCollator:
    """The `collate_fn` of a DataLoader over rows: converts a list of rows to a padded `PreferenceBatch`.

    Every micro-batch has the same weight in its optimizer step, as usual in Lightning. `PreferenceDataModule` weights
    every pair equally instead, and gives every device the same number of tokens.

    Args:
        tokenizer: The tokenizer.
        source: Converts a row to a pair, or to several.
        max_length: Maximum number of tokens of the prompt and the longer completion together.
        on_overlong: `truncate` shortens longer pairs; `error` rejects them.
        micro_batches_per_step: Micro-batches in one optimizer step on all devices: `accumulate_grad_batches` times the
            number of devices.
        chosen_only: Whether batches contain only chosen completions, for a loss that does not read rejected ones (SFT).
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        source: ToPair = jsonl_pair,
        max_length: int = 1024,
        on_overlong: Literal["truncate", "error"] = "truncate",
        micro_batches_per_step: int = 1,
        chosen_only: bool = False,
    ) -> None:
        self._tokenization = Tokenization(
            ready_tokenizer(tokenizer), max_length, "drop" if on_overlong == "error" else "truncate"
        )
        self._source, self._micro_batches = source, micro_batches_per_step
        self._layout = PaddedLayout(tokenizer.eos_token_id, chosen_only)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> PreferenceBatch:
        """The batch of `rows`.

        Raises:
            UserError: A row is invalid, or too long.
        """
        pairs = [pair for row in rows for pair in checked_pairs(dict(row), self._source, RowCounts())]
        for index, pair in enumerate(pairs):
            if invalid := pair.get("invalid"):
                raise UserError(f"pair {index} of a batch: {invalid}")
        names = [field.name for field in fields(TokenizedPair) if field.name not in ("index", "source")]
        tokenized = []
        for index, (pair, tokens) in enumerate(zip(pairs, self._tokenization.encoded(pairs), strict=True)):
            if tokens["invalid"]:
                raise UserError(f"pair {index} of a batch: {tokens['invalid']}")
            if tokens["overlong"]:
                raise UserError(
                    f"pair {index} of a batch has more than max_length={self._tokenization.max_length} tokens"
                )
            values = pair | tokens
            tokenized.append(TokenizedPair(index, **{name: values[name] for name in names if name in values}))
        scored = sum(sum(pair.chosen_scored or [True] * len(pair.chosen_ids)) for pair in tokenized)
        totals = (len(tokenized) * self._micro_batches, scored * self._micro_batches)
        return self._layout(MicroBatch(tokenized, [True] * len(tokenized), *totals))
