"""Statistics of preference pairs: duplicates, contradictions, and the accuracy of preferring the longer answer."""

from collections import Counter
from collections.abc import Iterable, Sequence

Pair = tuple[str, str, str]
"""Prompt, chosen and rejected."""


def duplicates(pairs: Iterable[Pair]) -> tuple[int, int]:
    """The number of duplicate pairs, and the number of pairs that also occur with chosen and rejected swapped.

    >>> duplicates([("p", "a", "b"), ("p", "a", "b"), ("p", "b", "a")])
    (1, 3)
    """
    counts = Counter(pairs)
    repeated = sum(count - 1 for count in counts.values())
    contradictory = sum(count for (prompt, a, b), count in counts.items() if (prompt, b, a) in counts)
    return repeated, contradictory


def longer_wins(chosen_lengths: Sequence[float], rejected_lengths: Sequence[float]) -> float:
    """Accuracy of always preferring the longer answer. Answers of equal length count one half.

    >>> longer_wins([3, 1, 2, 2], [1, 3, 2, 1])
    0.625
    """
    wins = [
        (chosen > rejected) + (chosen == rejected) / 2
        for chosen, rejected in zip(chosen_lengths, rejected_lengths, strict=True)
    ]
    return sum(wins) / len(wins)
