"""Text to token ids: what is prompt, what is scored, what is too long."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import datasets
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

# Part of the cache's key: raise it with every change of what this file computes.
_VERSION = 1


@dataclass(frozen=True)
class Tokenization:
    """How pairs become token ids.

    Args:
        tokenizer: Its own rules decide about a beginning-of-sequence token.
        max_length: Tokens that prompt and longer completion may have together.
        on_overlong: `drop` marks a longer pair as overlong. `truncate` cuts the prompt from the left, keeping a
            beginning-of-sequence token, and then the completions from the right, which then get no end of sequence.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    on_overlong: Literal["drop", "truncate"]

    def tokenize(self, pairs: Dataset) -> Dataset:
        """`prompt_ids`, `chosen_ids`, `rejected_ids`, `invalid` and `overlong` beside the other columns of `pairs`.

        Fast tokenizers use all cores. The result is cached on disk by content: rows, tokenizer and settings.
        """
        key = self._digest(pairs)
        folder = Path(datasets.config.HF_DATASETS_CACHE, "lightning_dpo")
        folder.mkdir(parents=True, exist_ok=True)
        return pairs.map(
            self._batch,
            batched=True,
            cache_file_name=str(folder / f"{key}.arrow"),
            new_fingerprint=key,
            desc="Tokenizing",
        )

    def encode(self, prompt: str, chosen: str, rejected: str) -> tuple[list[int], list[int], list[int]]:
        """Ids of one pair before any truncation; see `_split`."""
        return self._split(*self.tokenizer([prompt, prompt + chosen, prompt + rejected]).input_ids)

    def _batch(self, rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        prompts = rows["prompt"]
        texts = [
            prompts,
            [prompt + answer for prompt, answer in zip(prompts, rows["chosen"], strict=True)],
            [prompt + answer for prompt, answer in zip(prompts, rows["rejected"], strict=True)],
        ]
        ids = [self.tokenizer(column).input_ids for column in texts]
        results = [self._checked(*self._split(*encoded)) for encoded in zip(*ids, strict=True)]
        names = ("prompt_ids", "chosen_ids", "rejected_ids", "invalid", "overlong")
        return {name: [result[column] for result in results] for column, name in enumerate(names)}

    def _split(self, prompt: list[int], chosen: list[int], rejected: list[int]) -> tuple[list[int], ...]:
        """Encoded wholes to prompt and completions: the prompt is the longest prefix that all three have in common.

        Where a tokenizer merges across the boundary, the merged tokens belong to the completions.
        """
        common = min(_common_prefix(prompt, chosen), _common_prefix(prompt, rejected))
        return prompt[:common], self._ended(chosen[common:]), self._ended(rejected[common:])

    def _ended(self, ids: list[int]) -> list[int]:
        end = self.tokenizer.eos_token_id
        return ids if ids and ids[-1] == end else [*ids, end]

    def _checked(self, prompt: list[int], chosen: list[int], rejected: list[int]) -> tuple[Any, ...]:
        text = {*prompt[_common_prefix(self._lead, prompt) :], *chosen[:-1], *rejected[:-1]}
        overlong = len(prompt) + max(len(chosen), len(rejected)) > self.max_length
        if overlong and self.on_overlong == "truncate":
            prompt, chosen, rejected = self._truncated(prompt, chosen, rejected)
        invalid = ""
        if text & self._special_ids:
            invalid = "special_token"
        elif not prompt:
            invalid = "empty_prompt"
        elif self._unknown_id in text:
            invalid = "unknown_token"
        elif chosen == rejected or not chosen or not rejected:
            invalid = "nothing_left" if overlong else "identical_answers"
        return prompt, chosen, rejected, invalid, overlong and self.on_overlong == "drop"

    def _truncated(self, prompt: list[int], chosen: list[int], rejected: list[int]) -> tuple[list[int], ...]:
        room = max(1, self.max_length - max(len(chosen), len(rejected)))
        if len(prompt) > room:
            start = [prompt[0]] if prompt[0] == self.tokenizer.bos_token_id else []
            prompt = start + prompt[len(prompt) - room + len(start) :]
        room = max(0, self.max_length - len(prompt))
        return prompt, chosen[:room], rejected[:room]

    @cached_property
    def _lead(self) -> list[int]:
        """What the tokenizer writes before any text: a beginning of sequence, or nothing."""
        return self.tokenizer("").input_ids

    @cached_property
    def _special_ids(self) -> set[int]:
        """Control tokens that no text may contain."""
        added = {token for token, entry in self.tokenizer.added_tokens_decoder.items() if entry.special}
        return (added | set(self.tokenizer.all_special_ids)) - {self._unknown_id}

    @cached_property
    def _unknown_id(self) -> int | None:
        """The token for what has none; some tokenizers reuse their end of sequence, which says nothing."""
        token = self.tokenizer.unk_token_id
        return None if token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id) else token

    def _digest(self, pairs: Dataset) -> str:
        settings = [_VERSION, self.max_length, self.on_overlong, *_facts(self.tokenizer)]
        digest = hashlib.sha256(json.dumps(settings).encode())
        for row in pairs:
            digest.update(json.dumps(row, sort_keys=True).encode())
        return digest.hexdigest()


def _facts(tokenizer: PreTrainedTokenizerBase) -> Iterable[str]:
    """All that decides how a tokenizer encodes: its whole state where it is a fast one, else its vocabulary."""
    if tokenizer.is_fast:
        yield tokenizer.backend_tokenizer.to_str()
    else:
        yield json.dumps([type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())])
    yield json.dumps(tokenizer.special_tokens_map, sort_keys=True, default=str)


def _common_prefix(prompt: list[int], whole: list[int]) -> int:
    if whole[: len(prompt)] == prompt:
        return len(prompt)
    return next(i for i, (a, b) in enumerate(zip(prompt, [*whole, None], strict=False)) if a != b)
