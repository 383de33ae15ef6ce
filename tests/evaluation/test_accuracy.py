"""Statistics of implicit rewards, against pairs whose answer is known."""

import numpy as np
import pytest

from lightning_dpo.evaluation.accuracy import ScoredPair, accuracy, by_length_difference, by_source, length_baseline


def pair(margin: float, chosen: int = 10, rejected: int = 10, source: str = "") -> ScoredPair:
    return ScoredPair("file:1", source, margin, 0.0, chosen, rejected)


def test_accuracy_counts_a_tie_one_half():
    found = accuracy([pair(1.0), pair(2.0), pair(-1.0), pair(0.0)])
    assert (found.value, found.ties, found.pairs) == (0.625, 1, 4)


def test_the_interval_is_wilsons_and_holds_the_truth_as_often_as_expected():
    """The number of the textbook (8 of 10), and 95 % of 2 000 draws."""
    found = accuracy([pair(1.0)] * 8 + [pair(-1.0)] * 2)
    assert (found.low, found.high) == pytest.approx((0.4902, 0.9433), abs=1e-3)
    generator = np.random.default_rng(0)
    holds = 0
    for _ in range(2000):
        right = generator.random(50) < 0.7
        found = accuracy([pair(1.0 if yes else -1.0) for yes in right])
        holds += found.low <= 0.7 <= found.high
    assert holds / 2000 == pytest.approx(0.95, abs=0.015)


def test_parts_by_source_and_by_length():
    pairs = [pair(1, 100, 10, "a"), pair(-1, 10, 100, "b"), pair(1, 30, 10, "a"), pair(1, 10, 30, "b"), pair(0, 10, 11)]
    assert {name: (part.pairs, part.value) for name, part in by_source(pairs).items()} == {
        "a": (2, 1.0), "b": (2, 0.5), "all": (1, 0.5),
    }  # fmt: skip
    buckets = {name: part.value for name, part in by_length_difference(pairs).items()}
    expected = {"64 or more shorter": 0, "16 to 63 shorter": 1, "about equally long": 0.5, "16 to 63 longer": 1}
    assert buckets == expected | {"64 or more longer": 1}
    assert list(buckets) == [*expected, "64 or more longer"]
    assert length_baseline(pairs) == pytest.approx(2 / 5)


@pytest.mark.parametrize("longer", [-64, -63, -16, -15, 15, 16, 63, 64])
def test_both_directions_have_the_same_edges(longer):
    (name,) = by_length_difference([pair(1, 100 + longer, 100)])
    (other,) = by_length_difference([pair(1, 100 - longer, 100)])
    assert name.replace("shorter", "x").replace("longer", "x") == other.replace("longer", "x").replace("shorter", "x")
