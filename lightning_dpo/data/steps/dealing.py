"""Things of unequal size into equally many parts of nearly equal sums."""

from collections import deque
from collections.abc import Callable, Sequence


def deal(sizes: Sequence[int], parts: int) -> list[list[int]]:
    """Places of `sizes`, dealt one by one: see `deal_together`.

    >>> deal([9, 1, 8, 2], parts=2)
    [[0, 1], [2, 3]]
    """
    return deal_together([[place] for place in range(len(sizes))], lambda unit: sum(sizes[one] for one in unit), parts)


def deal_together(units: Sequence[Sequence[int]], size: Callable[[Sequence[int]], int], parts: int) -> list[list[int]]:
    """Deal `units` so that the parts' sizes are as even as a greedy choice gets them.

    The largest first, each to the smallest part that still has room for it (Graham's LPT rule,
    https://doi.org/10.1137/0117039, with parts of bounded length). A unit that no part has room for is cut. The same
    units are always dealt the same way.

    Args:
        units: What should stay together, each a sequence of numbers.
        size: Of one unit, or of a piece of one; positive.
        parts: How many; the longest has ⌈numbers / parts⌉ numbers.

    >>> deal_together([[0, 1, 2], [3], [4], [5]], size=len, parts=2)
    [[0, 1, 2], [3, 4, 5]]
    """
    numbers = sum(map(len, units))
    room = -(-numbers // parts)
    dealt: list[list[int]] = [[] for _ in range(parts)]
    sums = [0] * parts
    waiting = deque(sorted(units, key=size, reverse=True))
    while waiting:
        unit = waiting.popleft()
        fits = [part for part in range(parts) if len(dealt[part]) + len(unit) <= room]
        if not fits:
            fits = [min(range(parts), key=lambda part: len(dealt[part]))]
            cut = room - len(dealt[fits[0]])
            waiting.appendleft(unit[cut:])
            unit = unit[:cut]
        smallest = min(fits, key=lambda part: sums[part])
        dealt[smallest] += unit
        sums[smallest] += size(unit)
    return dealt


def unevenness(sums: Sequence[int]) -> float:
    """The largest of the parts' sums over their mean: 1 when they are even.

    >>> unevenness([10, 10]), unevenness([30, 10])
    (1.0, 1.5)
    """
    return max(sums) * len(sums) / sum(sums)
