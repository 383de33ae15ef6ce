import pytest

from lightning_dpo.reviews import LengthBiasedRows, ReviewRows, world


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


def test_reviews_of_several_lengths_are_equally_likely_and_equally_good():
    lengths = (1, 2, 4)
    counts, probabilities = world.word_counts(lengths), world.probabilities(lengths)
    assert probabilities.sum().item() == pytest.approx(1)
    for length in lengths:
        of_length = counts == length
        assert probabilities[of_length].sum().item() == pytest.approx(1 / 3)
        # The mean score of a word does not depend on the number of words.
        assert world.rewards(lengths)[0, of_length].mean() == pytest.approx(world.rewards([1])[0].mean().item())
    best = [world.rewards([length]).max().item() for length in lengths]
    assert best == pytest.approx([best[0]] * 3)


def test_longer_reviews_win_by_their_bias():
    """Of pairs of equal quality, the longer one wins with probability σ(bias · difference)."""
    rows = list(LengthBiasedRows(30_000, lengths=(1, 2), bias=1.0)("train"))
    lengths = [(len(row["chosen"].split()), len(row["rejected"].split())) for row in rows]
    rewards = {text: world.rewards([1, 2])[:, n] for n, text in enumerate(world.reviews([1, 2]))}
    films = {prompt: n for n, prompt in enumerate(world.prompts())}
    won = expected = 0.0
    for row, (chosen, rejected) in zip(rows, lengths, strict=True):
        if chosen != rejected:
            film, (long, short) = (
                films[row["prompt"]],
                sorted(("chosen", "rejected"), key=lambda k: -len(row[k].split())),
            )
            gap = float(rewards[row[long]][film] - rewards[row[short]][film])
            won, expected = won + (long == "chosen"), expected + 1 / (1 + 2.718281828 ** -(gap + 1.0))
    assert won == pytest.approx(expected, rel=0.03)
    assert all(row["chosen"] != row["rejected"] for row in rows)
