"""Text and messages as token ids before truncation: prompt, answers, scored tokens, and reasons for invalid rows."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from lightning_dpo.data.prefix import common_prefix
from lightning_dpo.data.rows.reasons import InvalidRow, excerpt
from lightning_dpo.data.tokens.chat_pair import ChatPair, ChatRenderer
from lightning_dpo.data.tokens.prompt_once import Ids, encoded, encodes_words
from lightning_dpo.data.tokens.special_tokens import special_tokens

UNKNOWN = "the tokenizer does not know words or characters of the text"

_TEXTS = ("prompt", "chosen", "rejected")

Mask = list[bool] | None
"""Which tokens of a completion are scored; None: all."""


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """A pair as token ids, or the reason why it is invalid. `ignored`: fields of the row that are not in the tokens."""

    prompt: Ids
    chosen: tuple[Ids, Mask]
    rejected: tuple[Ids, Mask]
    invalid: str = ""
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class TextEncoder:
    """Plain text: prompt and answer are encoded together by the tokenizer's rules, and an EOS token is appended."""

    tokenizer: PreTrainedTokenizerBase

    def __call__(self, rows: list[dict[str, Any]]) -> Iterator[EncodedPair]:
        """The pairs of `rows`, in order."""
        for texts in zip(*self._ids(*([row[name] for row in rows] for name in _TEXTS)), strict=True):
            prompt, chosen, rejected = self.split(*texts)
            # Without BOS at the start and EOS at the end, which the encoder itself adds.
            text = {*prompt[common_prefix(self._lead, prompt) :], *chosen[:-1], *rejected[:-1]}
            reason = ""
            if special := text & self._special_ids:
                reason = _special(str(self.tokenizer.decode([min(special)])))
            elif not prompt:
                reason = "the prompt is empty"
            elif unknown_id(self.tokenizer) in text:
                reason = UNKNOWN
            yield EncodedPair(prompt, (chosen, None), (rejected, None), reason)

    def split(self, prompt: Ids, chosen: Ids, rejected: Ids) -> tuple[Ids, Ids, Ids]:
        """Split encoded texts into the prompt and completions that end with EOS."""
        prompt, chosen, rejected = split(prompt, chosen, rejected)
        return prompt, self._ended(chosen), self._ended(rejected)

    def _ids(self, prompts: list[str], *sides: list[str]) -> tuple[list[Ids], ...]:
        """Ids of prompts, and of prompts with their chosen and their rejected answers."""
        if not prompts:
            return [], [], []
        if self._by_words:
            return encoded(self.tokenizer, prompts, *sides)
        wholes = ([prompt + answer for prompt, answer in zip(prompts, answers, strict=True)] for answers in sides)
        return tuple(self.tokenizer(texts).input_ids for texts in (prompts, *wholes))

    def _ended(self, ids: Ids) -> Ids:
        end = self.tokenizer.eos_token_id
        return ids if ids and ids[-1] == end else [*ids, end]

    @cached_property
    def _by_words(self) -> bool:
        return encodes_words(self.tokenizer)

    @cached_property
    def _lead(self) -> Ids:
        """The tokens that the tokenizer adds before any text: BOS, or none."""
        return self.tokenizer("").input_ids

    @cached_property
    def _special_ids(self) -> set[int]:
        """Special tokens that texts must not contain."""
        every = {*special_tokens(self.tokenizer), *self.tokenizer.all_special_ids}
        return {token for token in every if token != unknown_id(self.tokenizer)}


@dataclass(frozen=True)
class ChatEncoder:
    """Messages: rendered by the chat template, which also adds BOS and end-of-turn tokens."""

    render: ChatRenderer

    def __call__(self, rows: list[dict[str, Any]]) -> Iterator[EncodedPair]:
        """The pairs of `rows`, in order."""
        rendered = [self._rendered(row) for row in rows]
        good = [sides for sides in rendered if not isinstance(sides, str)]
        prompts, chosen, rejected = (
            self._ids(texts)
            for texts in (
                [side.prompt for side, _ in good], [side.whole for side, _ in good], [side.whole for _, side in good]
            )
        )  # fmt: skip
        encoded = zip(prompts, chosen, rejected, strict=True)
        for sides in rendered:
            if isinstance(sides, str):
                yield EncodedPair([], ([], None), ([], None), sides)
            else:
                yield self._encoded(sides, *split(*next(encoded)))

    def _rendered(self, row: dict[str, Any]) -> tuple[ChatPair, ChatPair] | str:
        """Both sides rendered by the template, or the reason why it rejects them."""
        prompt, chosen, rejected = (json.loads(row[name]) for name in ("prompt", "chosen", "rejected"))
        options = json.loads(row.get("chat_template_kwargs") or "{}")
        if row.get("tools"):
            options["tools"] = json.loads(row["tools"])
        template = self.render.template
        # Roles and names of fields are not text of the user.
        messages = (*prompt, *chosen, *rejected)
        texts = [value for message in messages for name, value in message.items() if name != "role"]
        if special := template.special_in(texts, options):
            return _special(special)
        try:
            sides = self.render(prompt, chosen, options), self.render(prompt, rejected, options)
        except InvalidRow as reason:
            return str(reason)
        ended = (template.ends(side.whole[common_prefix(side.prompt, side.whole) :]) for side in sides)
        return sides if all(ended) else "the chat template does not end an answer with an end-of-turn token"

    def _encoded(self, sides: tuple[ChatPair, ChatPair], prompt: Ids, chosen: Ids, rejected: Ids) -> EncodedPair:
        masks = [
            self._mask(side, [*prompt, *ids], len(prompt)) for side, ids in zip(sides, (chosen, rejected), strict=True)
        ]
        tokenizer, reason = self.render.template.tokenizer, ""
        # Some templates begin every turn with BOS. Two in a row are an error: the tokenizer adds one too.
        twice = (tokenizer.bos_token_id,) * 2
        if any(twice in itertools.pairwise([*prompt, *ids]) for ids in (chosen, rejected)):
            reason = "the chat template writes two BOS tokens in a row"
        elif unknown_id(tokenizer) in {*prompt, *chosen, *rejected}:
            reason = UNKNOWN
        ignored = tuple(sorted(sides[0].ignored | sides[1].ignored))
        return EncodedPair(prompt, (chosen, masks[0]), (rejected, masks[1]), reason, ignored)

    def _mask(self, side: ChatPair, whole: Ids, start: int) -> Mask:
        """Whether each token of a completion is in a scored turn."""
        if side.turns is None:
            return None
        scored = [False] * len(whole)
        for turn in side.turns:
            first, end = (common_prefix(ids, whole) for ids in self._ids(list(turn)))
            scored[first:end] = [True] * (end - first)
        return scored[start:]

    def _ids(self, texts: list[str]) -> list[Ids]:
        return self.render.template.tokenizer(texts, add_special_tokens=False).input_ids if texts else []


def masked(pair: EncodedPair, row: dict[str, Any]) -> EncodedPair:
    """The pair with the masks of its row: a token is scored if they and the scored turns include it."""
    sides = {"chosen": pair.chosen, "rejected": pair.rejected}
    for name, (ids, scored) in sides.items():
        own = row.get(f"{name}_mask")
        if own is None or pair.invalid:
            continue
        if len(own) != len(ids):
            reason = f"{name}_mask has {len(own)} values, and the answer {len(ids)} tokens, its end token included"
            return replace(pair, invalid=reason)
        both = own if scored is None else [one and other for one, other in zip(own, scored, strict=True)]
        sides[name] = ids, both
        if not any(both):
            return replace(pair, invalid=f"{name}_mask selects no token of a scored turn")
    return replace(pair, chosen=sides["chosen"], rejected=sides["rejected"])


def _special(token: str) -> str:
    return f"the text contains a special token of the tokenizer ({excerpt(token)})"


def unknown_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The unknown token, or None. Some tokenizers use BOS or EOS for it, and then it does not indicate anything."""
    token = tokenizer.unk_token_id
    return None if token in (None, tokenizer.bos_token_id, tokenizer.eos_token_id) else token


def split(prompt: Ids, chosen: Ids, rejected: Ids) -> tuple[Ids, Ids, Ids]:
    """Split encoded texts into prompt and completions. The prompt is the longest common prefix of all three.

    If the tokenizer merges characters across the boundary, the merged tokens belong to the completions.
    """
    common = min(common_prefix(prompt, chosen), common_prefix(prompt, rejected))
    return prompt[:common], chosen[common:], rejected[common:]
