"""Sizes into equally many parts of nearly equal sums."""

import heapq
import math
from collections.abc import Sequence


def deal(sizes: Sequence[int], parts: int) -> list[list[int]]:
    """Places of `sizes`, dealt so that the parts' sums are as even as a greedy choice gets them.

    The largest first, each to the part with the smallest sum that still has room for one (Graham's LPT rule,
    https://doi.org/10.1137/0117039, with parts of bounded length). The same sizes are always dealt the same way.

    Args:
        sizes: Of what is dealt; positive.
        parts: How many; the longest has ⌈len(sizes) / parts⌉ places.

    >>> deal([9, 1, 8, 2], parts=2)
    [[0, 1], [2, 3]]
    """
    room = math.ceil(len(sizes) / parts)
    dealt: list[list[int]] = [[] for _ in range(parts)]
    open_parts = [(0, part) for part in range(parts)]
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place]):
        total, part = heapq.heappop(open_parts)
        dealt[part].append(place)
        if len(dealt[part]) < room:
            heapq.heappush(open_parts, (total + sizes[place], part))
    return dealt


def unevenness(sums: Sequence[int]) -> float:
    """The largest of the parts' sums over their mean: 1 when they are even.

    >>> unevenness([10, 10]), unevenness([30, 10])
    (1.0, 1.5)
    """
    return max(sums) * len(sums) / sum(sums)
