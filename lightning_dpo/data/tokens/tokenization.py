"""Pairs as token ids, with truncation, cached on disk."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import datasets
from datasets import Dataset, Features, List, Value
from filelock import FileLock
from transformers import PreTrainedTokenizerBase

from lightning_dpo.data.rows.reasons import IDENTICAL_ANSWERS
from lightning_dpo.data.tokens.chat_pair import ChatRenderer
from lightning_dpo.data.tokens.chat_template import ChatTemplate
from lightning_dpo.data.tokens.digests import tokenizer_digests, tokenizer_facts
from lightning_dpo.data.tokens.encoding import ChatEncoder, EncodedPair, Ids, Mask, TextEncoder, masked
from lightning_dpo.errors import UserError

log = logging.getLogger(__name__)

# Part of the cache key: increase it whenever the result for a row changes.
_VERSION = 8
_COLUMNS = Features(
    {name: List(Value("int64")) for name in ("prompt_ids", "chosen_ids", "rejected_ids")}
    | {name: List(Value("bool")) for name in ("chosen_scored", "rejected_scored")}
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
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    on_overlong: Literal["drop", "truncate"]
    score: Literal["last", "all"] = "last"
    chat_template_kwargs: Mapping[str, object] = field(default_factory=dict)

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
        key = self.cache_key(pairs, self._template.probe() if chat else "")
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
                # Without explicit types, a first batch without masks would give the mask columns the type null.
                features=Features(pairs.features | _COLUMNS),
            )

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
        return dict(zip((*names, "invalid", "overlong", "truncated", *whole), values, strict=True))

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

    def cache_key(self, pairs: Dataset, probe: str = "") -> str:
        """Digest of everything that the result depends on. `probe`: output of the template, with its date."""
        settings = [
            _VERSION,
            self.max_length,
            self.on_overlong,
            self.score,
            probe,
            *tokenizer_facts(self.tokenizer).values(),
        ]
        settings.append(json.dumps(dict(self.chat_template_kwargs), sort_keys=True))
        digest = hashlib.sha256(json.dumps(settings).encode())
        for row in pairs:
            digest.update(json.dumps(row, sort_keys=True).encode())
        return digest.hexdigest()


def _scores(ids: Ids, mask: Mask) -> bool:
    """Whether any token is scored."""
    return bool(ids) if mask is None else any(mask)
