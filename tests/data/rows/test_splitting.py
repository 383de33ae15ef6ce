import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_dpo.data.rows.splitting import in_proportion, sample, split_by_prompt
from lightning_dpo.errors import UserError


def pairs_over(prompts: list[str]) -> Dataset:
    return Dataset.from_dict({"prompt": prompts})


@settings(max_examples=25)
@given(st.lists(st.sampled_from("abcdefgh"), min_size=20, max_size=60).filter(lambda p: len(set(p)) > 2), st.integers())
def test_sides_share_no_prompt_and_lose_no_pair(prompts, seed):
    train, val = split_by_prompt(pairs_over(prompts), 0.2, seed)
    assert not set(train["prompt"]) & set(val["prompt"])
    assert sorted(train["prompt"][:] + val["prompt"][:]) == sorted(prompts)
    assert len(train) > 0
    assert len(val) > 0


def test_the_split_is_the_seeds_and_not_the_orders():
    prompts = [f"prompt {n}" for n in range(50)]
    _, one = split_by_prompt(pairs_over(prompts), 0.2, seed=1)
    _, again = split_by_prompt(pairs_over(prompts[::-1]), 0.2, seed=1)
    _, other = split_by_prompt(pairs_over(prompts), 0.2, seed=2)
    assert set(one["prompt"]) == set(again["prompt"]) != set(other["prompt"])


def test_one_prompt_cannot_be_split():
    with pytest.raises(UserError, match="5 pairs over 1 prompts cannot be split"):
        split_by_prompt(pairs_over(["a"] * 5), 0.2, seed=0)


def test_a_sample_keeps_the_order_and_follows_the_seed():
    pairs = Dataset.from_dict({"prompt": [str(n) for n in range(100)]})
    rows = [int(prompt) for prompt in sample(pairs, 10, seed=0)["prompt"]]
    assert rows == sorted(rows)
    assert len(set(rows)) == 10
    assert rows != [int(prompt) for prompt in sample(pairs, 10, seed=1)["prompt"]]
    assert len(sample(pairs, None, seed=0)) == len(sample(pairs, 200, seed=0)) == 100


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(0, 9))
def test_every_prefix_has_every_source_in_proportion(sources, seed):
    order = in_proportion(sources, seed)
    assert sorted(order) == list(range(len(sources)))
    for end in range(1, len(order) + 1):
        for source in set(sources):
            found = sum(sources[row] == source for row in order[:end])
            assert abs(found - end * sources.count(source) / len(sources)) < len(set(sources))


def test_pairs_of_one_source_are_shuffled_with_the_seed():
    orders = [in_proportion([0] * 50, seed) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != sorted(orders[0])
