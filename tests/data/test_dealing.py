from hypothesis import given
from hypothesis import strategies as st

from lightning_dpo.data.dealing import deal, unevenness


@given(sizes=st.lists(st.integers(1, 1000), min_size=1, max_size=64), parts=st.integers(1, 9))
def test_everything_is_dealt_once_and_no_part_gets_more_than_its_share(sizes, parts):
    dealt = deal(sizes, parts)
    assert sorted(place for part in dealt for place in part) == list(range(len(sizes)))
    assert max(map(len, dealt)) <= -(-len(sizes) // parts)


@given(sizes=st.lists(st.integers(1, 1000), min_size=8, max_size=64), parts=st.integers(1, 8))
def test_no_two_parts_differ_by_more_than_the_largest_size(sizes, parts):
    """Where parts get equally many; what a bound on their lengths may add is no more than one size."""
    whole = sizes[: len(sizes) // parts * parts]
    sums = [sum(whole[place] for place in part) for part in deal(whole, parts)]
    assert max(sums) - min(sums) <= max(whole)
    assert unevenness(sums) >= 1
