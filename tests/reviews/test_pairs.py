import pytest

from lightning_dpo.errors import UserError
from lightning_dpo.reviews import world
from lightning_dpo.reviews.pairs import review_pairs


def test_splits_and_seeds_are_drawn_independently():
    draws = [
        review_pairs(split, pairs=50, val_pairs=50, seed=seed) for split in ("train", "validation") for seed in (0, 1)
    ]
    assert len({tuple(draw["chosen"]) for draw in draws}) == 4
    assert review_pairs("train", pairs=50)["chosen"][:] == draws[0]["chosen"][:]


def test_a_pair_is_two_different_reviews_of_one_film():
    pairs = review_pairs("train", pairs=2000)
    reviews = set(world.reviews())
    assert set(pairs["prompt"]) == set(world.prompts())
    assert all(row["chosen"] != row["rejected"] for row in pairs)
    assert {row["chosen"] for row in pairs} | {row["rejected"] for row in pairs} <= reviews


def test_a_reward_is_the_sum_of_its_words_scores():
    film, review = world.FILMS.index("Alien"), world.reviews().index(" gripping dull gripping")
    scores = world.SCORES["Alien"]
    assert world.rewards()[film, review].item() == pytest.approx(2 * scores[1] + scores[5])


def test_there_is_no_file():
    with pytest.raises(UserError, match=r"data.path=x has no effect with data=reviews"):
        review_pairs("train", "x")
