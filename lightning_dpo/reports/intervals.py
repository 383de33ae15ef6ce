"""95 % intervals of a share, of a mean with its standard error, and of a mean over seeds."""

import math
from collections.abc import Sequence
from statistics import mean, stdev

from scipy.stats import t as student

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
    return mean(values), float(student.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
