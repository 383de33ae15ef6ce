"""Splits into training and validation pairs without a common prompt, samples, and repetitions."""

import hashlib
import random
from collections import Counter
from collections.abc import Sequence

from datasets import Dataset

from lightning_dpo.data.rows.arrow import values_of
from lightning_dpo.errors import UserError


def sample(pairs: Dataset, max_pairs: int | None, seed: int) -> Dataset:
    """A random sample of at most `max_pairs` of `pairs`, in their order."""
    if max_pairs is None or len(pairs) <= max_pairs:
        return pairs
    return pairs.select(sorted(random.Random(seed).sample(range(len(pairs)), max_pairs)))


def repeat(pairs: Dataset, times: float, seed: int) -> Dataset:
    """`pairs`, repeated `times` times. The fractional part is a random sample."""
    whole, rest = divmod(times, 1)
    extra = sorted(random.Random(seed).sample(range(len(pairs)), round(rest * len(pairs))))
    return pairs if times == 1 else pairs.select([*range(len(pairs))] * int(whole) + extra)


def split_by_prompt(pairs: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Training and validation pairs. Prompts are held out in random order until they have `fraction` of the pairs.

    Raises:
        UserError: There are fewer than two prompts.
    """
    counts = Counter(values_of(pairs, "prompt"))
    wanted, held_out, taken = fraction * len(pairs), set(), 0
    if len(counts) < 2:
        raise UserError(f"data.val_fraction={fraction}: {len(pairs)} pairs over {len(counts)} prompts cannot be split")
    # The last prompt is always used for training, even if it has most of the pairs.
    *order, _ = sorted(counts, key=lambda text: hashlib.sha256(f"{seed} {text}".encode()).digest())
    for prompt in order:
        if taken >= wanted:
            break
        held_out.add(prompt)
        taken += counts[prompt]
    return without_prompts(pairs, held_out), without_prompts(pairs, counts.keys() - held_out)


def in_proportion(sources: Sequence[int], seed: int) -> list[int]:
    """The rows of pairs in random order, such that every prefix has each source in proportion.

    >>> [[0, 0, 0, 0, 1, 1][row] for row in in_proportion([0, 0, 0, 0, 1, 1], seed=0)]
    [0, 1, 0, 0, 1, 0]

    Args:
        sources: Index of the source of each pair.
        seed: Random seed of the order.
    """
    order, totals = random.Random(seed).sample(range(len(sources)), len(sources)), Counter(sources)
    seen: Counter[int] = Counter()
    # The k-th of n pairs of a source belongs at the fraction (k - ½) / n of the order.
    positions = {}
    for row in order:
        seen[sources[row]] += 1
        positions[row] = (seen[sources[row]] - 0.5) / totals[sources[row]]
    return sorted(order, key=positions.__getitem__)


def without_prompts(pairs: Dataset, prompts: set[str]) -> Dataset:
    """The rows of `pairs` whose prompt is not in `prompts`."""
    return pairs.select([row for row, prompt in enumerate(values_of(pairs, "prompt")) if prompt not in prompts])
