"""Text and messages to token ids, before anything is cut: what is prompt, what is scored, what is invalid."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from lightning_dpo.data.rows.reasons import InvalidRow
from lightning_dpo.data.tokens.chat_template import ChatPair, ChatTemplate, common_prefix
from lightning_dpo.data.tokens.special_tokens import special_tokens

Ids = list[int]
Mask = list[bool] | None
"""Which tokens of a completion are scored; None: all."""


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """A pair as token ids, or why it is none."""

    prompt: Ids
    chosen: tuple[Ids, Mask]
    rejected: tuple[Ids, Mask]
    invalid: str = ""


@dataclass(frozen=True)
class TextEncoder:
    """Plain text: encoded as wholes by the tokenizer's own rules, ended by the end of sequence."""

    tokenizer: PreTrainedTokenizerBase

    def __call__(self, rows: list[dict[str, Any]]) -> Iterator[EncodedPair]:
        """The pairs of `rows`, in order."""
        prompts = [row["prompt"] for row in rows]
        sides = ([row["prompt"] + row[side] for row in rows] for side in ("chosen", "rejected"))
        for encoded in zip(*(self._ids(texts) for texts in (prompts, *sides)), strict=True):
            prompt, chosen, rejected = self.split(*encoded)
            text = {*prompt[common_prefix(self._lead, prompt) :], *chosen[:-1], *rejected[:-1]}
            reason = ""
            if text & self._special_ids:
                reason = "the text contains a special token of the tokenizer"
            elif not prompt:
                reason = "the prompt is empty"
            elif unknown_id(self.tokenizer) in text:
                reason = "the text contains characters that the tokenizer does not know"
            yield EncodedPair(prompt, (chosen, None), (rejected, None), reason)

    def split(self, prompt: Ids, chosen: Ids, rejected: Ids) -> tuple[Ids, Ids, Ids]:
        """Encoded wholes to prompt and ended completions."""
        prompt, chosen, rejected = split(prompt, chosen, rejected)
        return prompt, self._ended(chosen), self._ended(rejected)

    def _ids(self, texts: list[str]) -> list[Ids]:
        return self.tokenizer(texts).input_ids if texts else []

    def _ended(self, ids: Ids) -> Ids:
        end = self.tokenizer.eos_token_id
        return ids if ids and ids[-1] == end else [*ids, end]

    @cached_property
    def _lead(self) -> Ids:
        """What the tokenizer writes before any text: a beginning of sequence, or nothing."""
        return self.tokenizer("").input_ids

    @cached_property
    def _special_ids(self) -> set[int]:
        """Control tokens that no text may contain."""
        every = {*special_tokens(self.tokenizer), *self.tokenizer.all_special_ids}
        return {token for token in every if token != unknown_id(self.tokenizer)}


@dataclass(frozen=True)
class ChatEncoder:
    """Messages: written by the chat template, which also begins and ends them."""

    template: ChatTemplate

    def __call__(self, rows: list[dict[str, Any]]) -> Iterator[EncodedPair]:
        """The pairs of `rows`, in order."""
        written = [self._written(row) for row in rows]
        good = [sides for sides in written if not isinstance(sides, str)]
        prompts, chosen, rejected = (
            self._ids(texts)
            for texts in (
                [side.prompt for side, _ in good], [side.whole for side, _ in good], [side.whole for _, side in good]
            )
        )  # fmt: skip
        encoded = zip(prompts, chosen, rejected, strict=True)
        for sides in written:
            if isinstance(sides, str):
                yield EncodedPair([], ([], None), ([], None), sides)
            else:
                yield self._encoded(sides, *split(*next(encoded)))

    def _written(self, row: dict[str, Any]) -> tuple[ChatPair, ChatPair] | str:
        """Both sides as the template writes them, or why it cannot."""
        prompt, chosen, rejected = (json.loads(row[name]) for name in ("prompt", "chosen", "rejected"))
        options = json.loads(row.get("chat_template_kwargs") or "{}")
        if row.get("tools"):
            options["tools"] = json.loads(row["tools"])
        if self.template.holds_special(prompt, chosen, rejected, options):
            return "the text contains a special token of the tokenizer"
        try:
            sides = self.template.pair(prompt, chosen, options), self.template.pair(prompt, rejected, options)
        except InvalidRow as reason:
            return str(reason)
        ended = (self.template.ends(side.whole[common_prefix(side.prompt, side.whole) :]) for side in sides)
        return sides if all(ended) else "the chat template does not end an answer with an end-of-turn token"

    def _encoded(self, sides: tuple[ChatPair, ChatPair], prompt: Ids, chosen: Ids, rejected: Ids) -> EncodedPair:
        masks = [
            self._mask(side, [*prompt, *ids], len(prompt)) for side, ids in zip(sides, (chosen, rejected), strict=True)
        ]
        tokenizer, reason = self.template.tokenizer, ""
        # Some templates begin every turn with it; none should write it twice.
        twice = (tokenizer.bos_token_id,) * 2
        if any(twice in itertools.pairwise([*prompt, *ids]) for ids in (chosen, rejected)):
            reason = "the chat template writes two BOS tokens in a row"
        elif unknown_id(tokenizer) in {*prompt, *chosen, *rejected}:
            reason = "the text contains characters that the tokenizer does not know"
        return EncodedPair(prompt, (chosen, masks[0]), (rejected, masks[1]), reason)

    def _mask(self, side: ChatPair, whole: Ids, start: int) -> Mask:
        """Which tokens of a completion stand within its scored turns."""
        if side.turns is None:
            return None
        scored = [False] * len(whole)
        for turn in side.turns:
            first, end = (common_prefix(ids, whole) for ids in self._ids(list(turn)))
            scored[first:end] = [True] * (end - first)
        return scored[start:]

    def _ids(self, texts: list[str]) -> list[Ids]:
        return self.template.tokenizer(texts, add_special_tokens=False).input_ids if texts else []


def unknown_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token for what has none; some tokenizers reuse their end of sequence, which says nothing."""
    token = tokenizer.unk_token_id
    return None if token in (None, tokenizer.bos_token_id, tokenizer.eos_token_id) else token


def split(prompt: Ids, chosen: Ids, rejected: Ids) -> tuple[Ids, Ids, Ids]:
    """Encoded wholes to prompt and completions: the prompt is the longest prefix that all three have in common.

    Where a tokenizer merges across the boundary, the merged tokens belong to the completions.
    """
    common = min(common_prefix(prompt, chosen), common_prefix(prompt, rejected))
    return prompt[:common], chosen[common:], rejected[common:]
