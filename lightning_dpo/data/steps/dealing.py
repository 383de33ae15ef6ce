"""Partition of items with sizes into parts with equal counts and nearly equal sums."""

from collections import deque
from collections.abc import Callable, Sequence


def deal(sizes: Sequence[int], parts: int) -> list[list[int]]:
    """Indices of `sizes`, partitioned one by one: see `deal_together`.

    >>> deal([9, 1, 8, 2], parts=2)
    [[0, 1], [2, 3]]
    """
    return deal_together(
        [[index] for index in range(len(sizes))], lambda group: sum(sizes[one] for one in group), parts
    )


def deal_together(groups: Sequence[Sequence[int]], size: Callable[[Sequence[int]], int], parts: int) -> list[list[int]]:
    """Partition groups of items greedily into parts of nearly equal size.

    Groups are assigned from the largest to the smallest, each to the smallest part that has room for it (Graham's LPT
    rule, https://doi.org/10.1137/0117039, with a maximum number of items per part). If no part has room, the group is
    split. The result is deterministic: resumed runs and all devices compute the same partition.

    Args:
        groups: Groups of items that should stay in one part.
        size: Size of a group or of a part of it; positive.
        parts: Number of parts. Each has at most ⌈items / parts⌉ items.

    >>> deal_together([[0, 1, 2], [3], [4], [5]], size=len, parts=2)
    [[0, 1, 2], [3, 4, 5]]
    """
    items = sum(map(len, groups))
    capacity = -(-items // parts)
    assigned: list[list[int]] = [[] for _ in range(parts)]
    sums = [0] * parts
    waiting = deque(sorted(groups, key=size, reverse=True))
    while waiting:
        group = waiting.popleft()
        fits = [part for part in range(parts) if len(assigned[part]) + len(group) <= capacity]
        if not fits:
            # Split the group: fill the part with the most room, and put the rest back to the front.
            fits = [min(range(parts), key=lambda part: len(assigned[part]))]
            split = capacity - len(assigned[fits[0]])
            waiting.appendleft(group[split:])
            group = group[:split]
        smallest = min(fits, key=lambda part: sums[part])
        assigned[smallest] += group
        sums[smallest] += size(group)
    return assigned
