"""How many tokens a forward pass of pairs has, and whether that is allowed."""

import numpy as np
from datasets import Dataset

from lightning_dpo.data.lengths import lengths, scored_lengths
from lightning_dpo.errors import UserError


def pair_tokens(tokens: Dataset, chosen_only: bool) -> np.ndarray:
    """Tokens of every pair, its prompt before each of its completions, without pads. Shape: (rows,), int64."""
    prompts = lengths(tokens, "prompt_ids")
    return sum(prompts + lengths(tokens, f"{side}_ids") for side in _sides(chosen_only))


def largest_forward(tokens: Dataset, batch_size: int, chosen_only: bool) -> tuple[int, int]:
    """Tokens, pads included, and scored positions of a micro-batch of the longest pairs."""
    scored = np.sort(sum(scored_lengths(tokens, side) for side in _sides(chosen_only)))
    return int(_rows(tokens, chosen_only).max()) * batch_size, int(scored[-batch_size:].sum())


def check_max_tokens(tokens: Dataset, batch_size: int, max_tokens: int, pairs_per_step: int, chosen_only: bool) -> None:
    """Refuse a batch size at which a forward pass may have more tokens than `max_tokens`, pads included.

    Args:
        tokens: The pairs.
        batch_size: Pairs in a forward pass.
        max_tokens: What it may have.
        pairs_per_step: Of an optimizer step, which the batch size must divide.
        chosen_only: Whether rejected completions are left out.

    Raises:
        UserError: Names the longest pair and the batch size that would fit.
    """
    rows = _rows(tokens, chosen_only)
    longest = int(rows.max())
    if longest * batch_size <= max_tokens:
        return
    fits = [size for size in range(1, batch_size) if pairs_per_step % size == 0 and size * longest <= max_tokens]
    remedy = f"set data.batch_size={fits[-1]}" if fits else "no batch size would fit: lower data.max_length"
    raise UserError(
        f"data.max_tokens={max_tokens}: the longest pair ({tokens['where'][int(rows.argmax())]}) has {longest} tokens, "
        f"and data.batch_size={batch_size} of them {longest * batch_size} in one forward pass; {remedy}"
    )


def _sides(chosen_only: bool) -> tuple[str, ...]:
    return ("chosen",) if chosen_only else ("chosen", "rejected")


def _rows(tokens: Dataset, chosen_only: bool) -> np.ndarray:
    """Tokens of every pair as padded rows: each of them as long as the longer one. Shape: (rows,), int64."""
    sides = _sides(chosen_only)
    answers = [lengths(tokens, f"{side}_ids") for side in sides]
    return (lengths(tokens, "prompt_ids") + np.max(answers, axis=0)) * len(sides)
