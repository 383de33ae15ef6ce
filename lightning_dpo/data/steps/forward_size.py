"""The number of tokens of a forward pass, and the check of its limit."""

from collections.abc import Sequence

import numpy as np
from datasets import Dataset

from lightning_dpo.data.tokens.lengths import PairLengths
from lightning_dpo.errors import UserError


class StreamTokens:
    """Number of tokens of some pairs in the shared layout: the cost of their forward pass.

    Args:
        lengths: The lengths of all pairs.
        chosen_only: Whether rejected completions are excluded.
    """

    def __init__(self, lengths: PairLengths, chosen_only: bool) -> None:
        self.prompts, self.prompt_lengths = lengths.prompt_id, lengths.prompt
        self.answer_lengths = np.sum(lengths.answers(chosen_only), axis=0)

    def __call__(self, rows: Sequence[int]) -> int:
        """Number of tokens of the pairs in `rows`."""
        if len(rows) == 1:  # most calls, when pairs are dealt one by one
            return int(self.answer_lengths[rows[0]] + self.prompt_lengths[rows[0]])
        chosen = np.asarray(rows)
        _, first = np.unique(self.prompts[chosen], return_index=True)
        return int(self.answer_lengths[chosen].sum() + self.prompt_lengths[chosen[first]].sum())


def longest_rows(tokens: Dataset, count: int, chosen_only: bool) -> list[int]:
    """Rows of the `count` pairs with the most tokens, the longest first."""
    return np.argsort(-_pair_tokens(PairLengths.of(tokens), chosen_only, True), kind="stable")[:count].tolist()


def largest_forward(tokens: Dataset, batch_size: int, chosen_only: bool, shared: bool) -> tuple[int, int]:
    """Tokens, padding included, and scored positions of a micro-batch of the longest pairs.

    Args:
        tokens: The tokenized pairs.
        batch_size: Pairs in a forward pass.
        chosen_only: Whether rejected completions are excluded.
        shared: Whether the layout is `shared` or `padded`.
    """
    lengths = PairLengths.of(tokens)
    scored = int(np.sort(lengths.scored(chosen_only))[-batch_size:].sum())
    return _largest(_pair_tokens(lengths, chosen_only, shared), batch_size, shared), scored


def check_max_tokens(
    tokens: Dataset, batch_size: int, max_tokens: int, pairs_per_step: int, chosen_only: bool, shared: bool
) -> None:
    """Check that no forward pass can have more than `max_tokens` tokens, padding included.

    Args:
        tokens: The tokenized pairs.
        batch_size: Pairs in a forward pass.
        max_tokens: Maximum number of tokens.
        pairs_per_step: Pairs in an optimizer step, which the batch size must divide.
        chosen_only: Whether rejected completions are excluded.
        shared: See `largest_forward`.

    Raises:
        UserError: One can; the message contains the longest pair and a batch size that fits.
    """
    sizes = _pair_tokens(PairLengths.of(tokens), chosen_only, shared)
    largest = _largest(sizes, batch_size, shared)
    if largest <= max_tokens:
        return
    fits = [
        size
        for size in range(1, batch_size)
        if pairs_per_step % size == 0 and _largest(sizes, size, shared) <= max_tokens
    ]
    remedy = f"set data.batch_size={fits[-1]}" if fits else "no batch size fits: reduce data.max_length"
    raise UserError(
        f"data.max_tokens={max_tokens}: the longest pair ({tokens['where'][int(sizes.argmax())]}) has "
        f"{int(sizes.max())} tokens, and a forward pass of data.batch_size={batch_size} pairs has up to {largest}; "
        f"{remedy}"
    )


def _largest(sizes: np.ndarray, batch_size: int, shared: bool) -> int:
    """Tokens of the longest micro-batch: in the stream a sum, in padded rows a multiple of the longest."""
    return int(np.sort(sizes)[-batch_size:].sum()) if shared else int(sizes.max()) * batch_size


def _pair_tokens(lengths: PairLengths, chosen_only: bool, shared: bool) -> np.ndarray:
    """Tokens of each pair: with its prompt once, or as rows padded to the longer one. Shape: (pairs,)."""
    answers = lengths.answers(chosen_only)
    return lengths.prompt + sum(answers) if shared else (lengths.prompt + np.max(answers, axis=0)) * len(answers)
