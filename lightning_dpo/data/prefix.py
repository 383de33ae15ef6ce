"""The common start of two sequences."""

from collections.abc import Sequence
from typing import Any


def common_prefix(start: Sequence[Any], whole: Sequence[Any]) -> int:
    """The number of equal elements or characters at the start.

    >>> common_prefix([1, 2, 3], [1, 2, 4, 5]), common_prefix("abc", "ab")
    (2, 2)
    """
    if whole[: len(start)] == start:
        return len(start)
    return next((index for index, (a, b) in enumerate(zip(start, whole, strict=False)) if a != b), len(whole))
