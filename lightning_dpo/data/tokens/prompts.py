"""Validation prompts for sampling, the answers in the data, and the tokens that end an answer."""

from collections.abc import Sequence
from typing import NamedTuple

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from lightning_dpo.data.tokens.special_tokens import special_tokens


def sample_prompts(
    tokens: Dataset, count: int, per_prompt: int, max_length: int, max_new_tokens: int
) -> tuple[list[list[int]], int]:
    """Prompts as token ids, evenly spaced in the data.

    Args:
        tokens: Tokenized pairs.
        count: Maximum number of prompts.
        per_prompt: How often a prompt can be repeated if there are fewer.
        max_length: Maximum number of tokens of prompt and answer together.
        max_new_tokens: Maximum number of tokens of an answer.

    Returns:
        The prompts, and the maximum number of tokens of an answer: `max_new_tokens`, or less because of `max_length`.
    """
    prompts = list(dict.fromkeys(map(tuple, tokens["prompt_ids"][:])))
    room = max(max_length - min(map(len, prompts)), 1)
    # At most half of max_length: otherwise only the shortest prompts would leave enough room.
    following = min(max_new_tokens, max(max_length // 2, 1), room)
    short = [list(prompt) for prompt in prompts if len(prompt) + following <= max_length]
    few = min(count, len(short))
    spread = [short[index * len(short) // few] for index in range(few)]
    return [spread[index % few] for index in range(min(count, few * per_prompt))], following


class Answer(NamedTuple):
    """The tokens of an answer."""

    ids: list[int]
    scored: list[bool] | None = None
    """Which tokens are scored. None: all."""


def answers_in(tokens: Dataset, prompts: Sequence[list[int]]) -> list[dict[str, Answer]]:
    """For each prompt, the `chosen` and the `rejected` answer of its first pair.

    Args:
        tokens: Tokenized pairs.
        prompts: Prompts of these pairs.
    """
    first: dict[tuple[int, ...], int] = {}
    for row, prompt in enumerate(tokens["prompt_ids"][:]):
        first.setdefault(tuple(prompt), row)
    rows = (tokens[first[tuple(prompt)]] for prompt in prompts)
    return [
        {
            side: Answer(row[f"{side}_ids"], row[f"{side}_scored"])
            for side in ("chosen", "rejected")
            if row[f"{side}_ids"]
        }
        for row in rows
    ]


def answer_ends(tokens: Dataset, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens that end an answer: EOS, and the special tokens at the end of training answers."""
    special = special_tokens(tokenizer)
    rows = tokens[: min(100, len(tokens))]
    answers = [ids for ids, cut in zip(rows["chosen_ids"], rows["truncated"], strict=True) if not cut]
    last = (next((token for token in reversed(ids) if token in special), None) for ids in answers)
    return frozenset({tokenizer.eos_token_id, *last} - {None})
