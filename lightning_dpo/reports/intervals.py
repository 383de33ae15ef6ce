"""95 % intervals of a share, of a mean with its standard error, and of a mean over seeds."""

import math
from collections.abc import Sequence
from statistics import mean, stdev

Z = 1.96
"""Half the width of a 95 % interval of a normal distribution, in standard errors."""


def wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `count` items, which is within [0, 1].

    Source: https://doi.org/10.1080/01621459.1927.10502953.
    """
    centre = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean and half the width of its 95 % interval (Student); NaN if there are too few values.

    >>> mean, half = interval([1.0, 2.0, 3.0])
    >>> mean, round(half, 3)
    (2.0, 2.484)
    """
    if not values:
        return math.nan, math.nan
    if len(values) == 1:
        return values[0], math.nan
    return mean(values), student(len(values) - 1) * stdev(values) / math.sqrt(len(values))


def student(freedom: int) -> float:
    """Half the width of a 95 % interval of Student's distribution with `freedom` degrees of freedom.

    It is found by bisection. SciPy has it too, but would be a large dependency for a single number.

    >>> round(student(1), 3), round(student(30), 3)
    (12.706, 2.042)
    """
    low, high = 0.0, 13.0  # the largest is that of one degree of freedom
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if _within(middle, freedom) < 0.95 else (low, middle)
    return middle


def _within(t: float, freedom: int) -> float:
    """P(|T| < t), as a finite sum: Abramowitz and Stegun, equations 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    terms = [term] if freedom > 1 else []
    for power in range(2 + odd, freedom - 1, 2):
        term *= math.cos(angle) ** 2 * (power - 1) / power
        terms.append(term)
    total = math.sin(angle) * sum(terms)
    return 2 / math.pi * (angle + total) if odd else total
