from hypothesis import given
from hypothesis import strategies as st

from lightning_dpo.data.steps.dealing import deal, deal_together


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


@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=12), parts=st.integers(1, 6))
def test_units_are_cut_only_where_no_part_has_room(sizes, parts):
    """Everything once, no part longer than its share; while a unit fits beside what is there, it stays whole."""
    numbers = iter(range(sum(sizes)))
    units = [[next(numbers) for _ in range(size)] for size in sizes]
    dealt = deal_together(units, len, parts)
    room = -(-sum(sizes) // parts)
    assert sorted(number for part in dealt for number in part) == list(range(sum(sizes)))
    assert max(map(len, dealt)) <= room
    filled = [0] * parts
    for unit in sorted(units, key=len, reverse=True):
        holders = [place for place, part in enumerate(dealt) if set(part) & set(unit)]
        if len(holders) > 1:
            assert all(length + len(unit) > room for length in filled)
            break  # from here on, what is left of it goes before smaller ones
        filled[holders[0]] += len(unit)
