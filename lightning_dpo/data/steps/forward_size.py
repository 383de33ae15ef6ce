"""How many tokens a forward pass of pairs has, and whether that is allowed."""

from collections.abc import Sequence

import numpy as np
from datasets import Dataset

from lightning_dpo.data.tokens.lengths import lengths, prompt_numbers, scored_lengths
from lightning_dpo.errors import UserError


class StreamTokens:
    """Tokens of some pairs laid out with each prompt once: what their forward pass costs.

    Args:
        tokens: All pairs.
        chosen_only: Whether rejected completions are left out.
    """

    def __init__(self, tokens: Dataset, chosen_only: bool) -> None:
        self.prompts, self.prompt_lengths = prompt_numbers(tokens), lengths(tokens, "prompt_ids")
        self.answer_lengths = np.sum([lengths(tokens, f"{side}_ids") for side in _sides(chosen_only)], axis=0)

    def __call__(self, rows: Sequence[int]) -> int:
        """Tokens of the pairs in `rows`, together."""
        chosen = np.asarray(rows)
        _, first = np.unique(self.prompts[chosen], return_index=True)
        return int(self.answer_lengths[chosen].sum() + self.prompt_lengths[chosen[first]].sum())


def longest_rows(tokens: Dataset, count: int, chosen_only: bool) -> list[int]:
    """The `count` pairs with the most tokens, the longest first."""
    return np.argsort(-_pair_tokens(tokens, chosen_only, shared=True), kind="stable")[:count].tolist()


def largest_forward(tokens: Dataset, batch_size: int, chosen_only: bool, shared: bool) -> tuple[int, int]:
    """Tokens, pads included, and scored positions of a micro-batch of the longest pairs.

    Args:
        tokens: The pairs.
        batch_size: Pairs in a forward pass.
        chosen_only: Whether rejected completions are left out.
        shared: Whether each prompt is laid out once, without pads; or for each completion, padded.
    """
    scored = np.sort(sum(scored_lengths(tokens, side) for side in _sides(chosen_only)))
    return _largest(_pair_tokens(tokens, chosen_only, shared), batch_size, shared), int(scored[-batch_size:].sum())


def check_max_tokens(
    tokens: Dataset, batch_size: int, max_tokens: int, pairs_per_step: int, chosen_only: bool, shared: bool
) -> None:
    """Refuse a batch size at which a forward pass may have more tokens than `max_tokens`, pads included.

    Args:
        tokens: The pairs.
        batch_size: Pairs in a forward pass.
        max_tokens: What it may have.
        pairs_per_step: Of an optimizer step, which the batch size must divide.
        chosen_only: Whether rejected completions are left out.
        shared: See `largest_forward`.

    Raises:
        UserError: Names the longest pair and the batch size that would fit.
    """
    sizes = _pair_tokens(tokens, chosen_only, shared)
    largest = _largest(sizes, batch_size, shared)
    if largest <= max_tokens:
        return
    fits = [
        size
        for size in range(1, batch_size)
        if pairs_per_step % size == 0 and _largest(sizes, size, shared) <= max_tokens
    ]
    remedy = f"set data.batch_size={fits[-1]}" if fits else "no batch size would fit: lower data.max_length"
    raise UserError(
        f"data.max_tokens={max_tokens}: the longest pair ({tokens['where'][int(sizes.argmax())]}) has "
        f"{int(sizes.max())} tokens, and data.batch_size={batch_size} of the longest {largest} in one forward pass; "
        f"{remedy}"
    )


def _largest(sizes: np.ndarray, batch_size: int, shared: bool) -> int:
    """Of the stream, the longest pairs one after the other; of rows, each as long as the longest."""
    return int(np.sort(sizes)[-batch_size:].sum()) if shared else int(sizes.max()) * batch_size


def _sides(chosen_only: bool) -> tuple[str, ...]:
    return ("chosen",) if chosen_only else ("chosen", "rejected")


def _pair_tokens(tokens: Dataset, chosen_only: bool, shared: bool) -> np.ndarray:
    """Tokens of every pair: its prompt once, or rows of which each is as long as the longer one. Shape: (rows,)."""
    answers = [lengths(tokens, f"{side}_ids") for side in _sides(chosen_only)]
    prompts = lengths(tokens, "prompt_ids")
    return prompts + sum(answers) if shared else (prompts + np.max(answers, axis=0)) * len(answers)
