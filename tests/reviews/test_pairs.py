import pytest

from lightning_dpo.reviews import ReviewRows, world


def test_splits_and_seeds_are_sampled_independently():
    draws = [
        [row["chosen"] for row in ReviewRows(50, 50, seed)(split)]
        for split in ("train", "validation")
        for seed in (0, 1)
    ]
    assert len(set(map(tuple, draws))) == 4
    assert [row["chosen"] for row in ReviewRows(50)("train")] == draws[0]


def test_a_pair_is_two_different_reviews_of_one_film():
    pairs = list(ReviewRows(2000)("train"))
    reviews = set(world.reviews())
    assert {row["prompt"] for row in pairs} == set(world.prompts())
    assert all(row["chosen"] != row["rejected"] for row in pairs)
    assert {row["chosen"] for row in pairs} | {row["rejected"] for row in pairs} <= reviews


def test_a_reward_is_the_sum_of_its_words_scores():
    film, review = world.FILMS.index("Alien"), world.reviews().index(" gripping dull gripping")
    scores = world.SCORES["Alien"]
    assert world.rewards()[film, review].item() == pytest.approx(2 * scores[1] + scores[5])
