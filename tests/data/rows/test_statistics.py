import pytest

from lightning_dpo.data.rows.statistics import duplicates, longer_wins


def test_doubles_and_contradictions_are_counted_apart():
    pairs = [("p", "a", "b"), ("p", "a", "b"), ("p", "a", "c"), ("q", "b", "a"), ("p", "c", "a")]
    assert duplicates(pairs) == (1, 2)
    assert duplicates(pairs[2:4]) == (0, 0)


@pytest.mark.parametrize(("chosen", "rejected", "share"), [([2, 5], [1, 4], 1), ([1], [1], 0.5), ([1, 9], [5, 1], 0.5)])
def test_a_judge_of_length(chosen, rejected, share):
    assert longer_wins(chosen, rejected) == share
