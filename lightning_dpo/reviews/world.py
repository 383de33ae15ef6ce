"""Films, words, and the score of each word in a review of each film."""

import itertools

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

REVIEWS = tuple(itertools.product(range(len(WORDS)), repeat=REVIEW_LENGTH))
"""All reviews as indices of words; the same for every film."""


def prompts() -> list[str]:
    """The prompt of each film."""
    return [PROMPT.format(film=film) for film in FILMS]


def reviews() -> list[str]:
    """All reviews as text, in the order of `REVIEWS`.

    >>> reviews()[1]
    ' moving moving gripping'
    """
    return ["".join(f" {WORDS[word]}" for word in review) for review in REVIEWS]


def rewards() -> Tensor:
    """The true reward of every review of every film. Shape: (films, reviews), float64."""
    scores = torch.tensor([SCORES[film] for film in FILMS], dtype=torch.float64)
    return scores[:, torch.tensor(REVIEWS)].sum(-1)
