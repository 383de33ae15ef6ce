"""Films, words, and the score of each word in a review of each film."""

import itertools
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

WORDS = ("moving", "gripping", "funny", "tender", "loud", "dull")
REVIEW_LENGTH = 3
# The reward of a review is the sum of the scores of its words for its film.
SCORES = {
    "Casablanca": (0.6, 0.2, -0.1, 0.5, -0.5, -0.4),
    "Alien": (-0.3, 0.7, -0.4, -0.5, 0.3, -0.1),
    "Airplane": (-0.4, 0.0, 0.8, -0.2, 0.2, -0.4),
    "Stalker": (0.5, 0.1, -0.5, 0.2, -0.6, 0.3),
}
FILMS = tuple(SCORES)
PROMPT = "A review of {film} :"

Lengths: TypeAlias = Sequence[int]
"""The numbers of words that a review can have: only `REVIEW_LENGTH`, except where length is the subject."""
DEFAULT: Lengths = (REVIEW_LENGTH,)


def prompts() -> list[str]:
    """The prompt of each film."""
    return [PROMPT.format(film=film) for film in FILMS]


def words_of_reviews(lengths: Lengths = DEFAULT) -> list[tuple[int, ...]]:
    """All reviews as indices of words; the same for every film."""
    return [review for length in lengths for review in itertools.product(range(len(WORDS)), repeat=length)]


def reviews(lengths: Lengths = DEFAULT) -> list[str]:
    """All reviews as text, in the order of `words_of_reviews`.

    >>> reviews()[1]
    ' moving moving gripping'
    """
    return ["".join(f" {WORDS[word]}" for word in review) for review in words_of_reviews(lengths)]


def rewards(lengths: Lengths = DEFAULT) -> Tensor:
    """The true reward of every review of every film. Shape: (films, reviews), float64.

    Three times the mean score of its words, so that longer reviews are not better.
    """
    scores = torch.tensor([SCORES[film] for film in FILMS], dtype=torch.float64)
    return sums_over_words(scores, lengths) * (REVIEW_LENGTH / word_counts(lengths))


def word_counts(lengths: Lengths = DEFAULT) -> Tensor:
    """Number of words of every review. Shape: (reviews,), float64."""
    return torch.tensor([len(review) for review in words_of_reviews(lengths)], dtype=torch.float64)


def probabilities(lengths: Lengths = DEFAULT) -> Tensor:
    """Probabilities of reviews if all lengths, and all reviews of a length, are equally likely. Shape: (reviews,)."""
    counts = word_counts(lengths)
    return len(WORDS) ** -counts / len(lengths)


def sums_over_words(values: Tensor, lengths: Lengths = DEFAULT) -> Tensor:
    """Sums of a value per word over the words of every review.

    Args:
        values: Shape: (films, words).
        lengths: Lengths of reviews.

    Returns:
        Shape: (films, reviews).
    """
    return torch.cat([values[:, torch.tensor(words_of_reviews([length]))].sum(-1) for length in lengths], 1)
