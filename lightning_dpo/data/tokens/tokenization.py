"""Pairs as token ids, with truncation, cached on disk."""

import itertools
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import datasets
import tokenizers
import transformers
from datasets import Dataset, Features, List, Value
from filelock import FileLock
from transformers import PreTrainedTokenizerBase

from lightning_dpo.data.rows.reasons import IDENTICAL_ANSWERS
from lightning_dpo.data.tokens.chat_pair import ChatRenderer
from lightning_dpo.data.tokens.chat_template import ChatTemplate
from lightning_dpo.data.tokens.digests import completion_key, tokenizer_digests, tokenizer_facts
from lightning_dpo.data.tokens.encoding import ChatEncoder, EncodedPair, Ids, Mask, TextEncoder, masked
from lightning_dpo.errors import UserError
from lightning_dpo.models.digests import code_digest, digest_of

log = logging.getLogger(__name__)

_PER_PROCESS = 5_000  # pairs for which the start of another process is worth it
_COLUMNS = Features(
    {name: List(Value("int64")) for name in ("prompt_ids", "chosen_ids", "rejected_ids")}
    | {name: List(Value("bool")) for name in ("chosen_scored", "rejected_scored")}
    | {name: Value("binary") for name in ("chosen_key", "rejected_key")}
    | {
        "ignored": List(Value("string")),
        "invalid": Value("string"),
        "overlong": Value("bool"),
        "truncated": Value("bool"),
    }
    # Lengths before truncation.
    | {name: Value("int64") for name in ("prompt_length", "chosen_length", "rejected_length")}
)


@dataclass(frozen=True)
class Tokenization:
    """Converts pairs to token ids.

    Args:
        tokenizer: The tokenizer. It adds a BOS token to text; for messages, its chat template does.
        max_length: Maximum number of tokens of the prompt and the longer completion together.
        on_overlong: `drop` marks longer pairs as overlong. `truncate` removes tokens from the start of the prompt,
            except BOS, and then from the end of the completions, which then have no EOS token.
        score: For messages: `last` scores the last turn of the answer, `all` every turn of the assistant.
        chat_template_kwargs: Arguments of the chat template. Those of a row take precedence.
        num_proc: Number of processes; None: one per CPU core if there are many pairs.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    on_overlong: Literal["drop", "truncate"]
    score: Literal["last", "all"] = "last"
    chat_template_kwargs: Mapping[str, object] = field(default_factory=dict)
    num_proc: int | None = None

    def tokenize(self, pairs: Dataset) -> Dataset:
        """Add the columns of `TokenizedPair`, `invalid`, `ignored`, `overlong`, `truncated` and lengths to `pairs`.

        Fast tokenizers use all cores. The result is cached on disk by content: rows, tokenizer and settings.

        Raises:
            UserError: The chat template is missing or invalid, or an option for messages has no effect.
        """
        chat = "chat" in pairs.column_names and any(pairs["chat"][:])
        if chat:
            self._template.check()
        elif self.score == "all":
            raise UserError("data.score=all has no effect: it applies only to messages, and the data are text")
        elif self.chat_template_kwargs:
            raise UserError(
                "data.chat_template_kwargs has no effect: it applies only to messages, and the data are text"
            )
        elif self._template.source:
            log.warning(
                "The data are text, so the chat template of %s is not applied; to apply it, set data.source.chat=true.",
                self.tokenizer.name_or_path or "the model",
            )
        key = self.cache_key(pairs)
        folder = Path(datasets.config.HF_DATASETS_CACHE, "lightning_dpo")
        folder.mkdir(parents=True, exist_ok=True)
        # The processes of a run start together. One tokenizes, and the others wait and read the cache.
        with FileLock(folder / f"{key}.lock"):
            return pairs.map(
                self._batch,
                batched=True,
                cache_file_name=str(folder / f"{key}.arrow"),
                # Replaces the hash of datasets, which would pickle the tokenizer.
                new_fingerprint=key,
                desc="Tokenizing",
                num_proc=self._processes(len(pairs)),
                # Without explicit types, a first batch without masks would give the mask columns the type null.
                features=Features(pairs.features | _COLUMNS),
            )

    def _processes(self, pairs: int) -> int | None:
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        processes = min(available, pairs // _PER_PROCESS) if self.num_proc is None else min(self.num_proc, pairs)
        return processes if processes > 1 else None

    def encode(self, prompt: str, chosen: str, rejected: str) -> tuple[Ids, Ids, Ids]:
        """Ids of one pair of texts before truncation."""
        return self._text.split(*self.tokenizer([prompt, prompt + chosen, prompt + rejected]).input_ids)

    def _batch(self, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        results = self.encoded(rows)
        return {name: [result[name] for result in results] for name in _COLUMNS}

    def encoded(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The columns that `tokenize` adds, by pair, without the checks of the template and without the cache."""
        results: list[dict[str, Any]] = [{}] * len(rows)
        for chat, encoder in ((False, self._text), (True, ChatEncoder(ChatRenderer(self._template, self.score)))):
            indices = [index for index, row in enumerate(rows) if bool(row.get("chat")) is chat]
            for index, pair in zip(indices, encoder([rows[index] for index in indices]), strict=True):
                results[index] = self._fitted(masked(pair, rows[index]))
        return results

    def _fitted(self, pair: EncodedPair) -> dict[str, Any]:
        """The columns of a pair, truncated if `on_overlong` is `truncate`."""
        prompt, chosen, rejected, invalid = pair.prompt, pair.chosen, pair.rejected, pair.invalid
        lengths = (len(prompt), len(chosen[0]), len(rejected[0]))
        longest = max(len(chosen[0]), len(rejected[0]))
        overlong = len(prompt) + longest > self.max_length
        truncated = overlong and self.on_overlong == "truncate"
        if truncated:
            prompt = self._cut(prompt, max(1, self.max_length - longest))
            room = max(0, self.max_length - len(prompt))
            chosen, rejected = ((ids[:room], mask and mask[:room]) for ids, mask in (chosen, rejected))
        if not invalid and (chosen == rejected or not _scores(*chosen) or not _scores(*rejected)):
            invalid = "truncation leaves no difference between the answers" if truncated else IDENTICAL_ANSWERS
        names = ("prompt_ids", "chosen_ids", "chosen_scored", "rejected_ids", "rejected_scored", "ignored")
        values = (prompt, *chosen, *rejected, pair.ignored, invalid, overlong and not truncated, truncated, *lengths)
        whole = ("prompt_length", "chosen_length", "rejected_length")
        keys = {"chosen_key": completion_key(prompt, *chosen), "rejected_key": completion_key(prompt, *rejected)}
        return dict(zip((*names, "invalid", "overlong", "truncated", *whole), values, strict=True)) | keys

    def _cut(self, prompt: Ids, room: int) -> Ids:
        """The end of the prompt, with its BOS token."""
        if len(prompt) <= room:
            return prompt
        start = [prompt[0]] if prompt[0] == self.tokenizer.bos_token_id else []
        return start + prompt[len(prompt) - room + len(start) :]

    @cached_property
    def digests(self) -> dict[str, str]:
        """Digests of the tokenizer, by name."""
        return tokenizer_digests(self.tokenizer)

    @cached_property
    def _text(self) -> TextEncoder:
        return TextEncoder(self.tokenizer)

    @cached_property
    def _template(self) -> ChatTemplate:
        return ChatTemplate(self.tokenizer, self.chat_template_kwargs)

    def facts(self) -> list[str]:
        """Everything that the result depends on, besides the pairs."""
        # The output of the template, because it may contain today's date.
        probe = self._template.probe() if "strftime_now" in (self._template.source or "") else ""
        settings = [self.max_length, self.on_overlong, self.score, dict(self.chat_template_kwargs), probe]
        versions = [transformers.__version__, tokenizers.__version__]
        return [
            code_digest("data"),
            json.dumps([settings, versions], sort_keys=True, default=repr),
            *tokenizer_facts(self.tokenizer).values(),
        ]

    def cache_key(self, pairs: Dataset) -> str:
        """Digest of everything that the result depends on."""
        columns = pairs.with_format("arrow").iter(1000)
        parts = (batch.serialize() for table in columns for batch in table.combine_chunks().to_batches())
        return digest_of(itertools.chain((fact.encode() for fact in self.facts()), map(memoryview, parts)), digits=32)


def _scores(ids: Ids, mask: Mask) -> bool:
    """Whether any token is scored."""
    return bool(ids) if mask is None else any(mask)
