"""Preference pairs of reviews: sampled uniformly, labelled by the Bradley-Terry model of the true rewards."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_dpo.models.digests import code_digest
from lightning_dpo.reviews import world


@dataclass(frozen=True)
class ReviewRows:
    """Rows of two different reviews of one film. The probability that the first is preferred is σ(r₁ − r₂).

    Args:
        pairs: Number of training pairs.
        val_pairs: Number of validation pairs, sampled independently.
        seed: Random seed of the sample.
    """

    pairs: int = 20_000
    val_pairs: int = 4_000
    seed: int = 0

    def __call__(self, split: str) -> Iterator[dict[str, str]]:
        """Rows with `prompt`, `chosen` and `rejected` of `train` or `validation`."""
        generator = torch.Generator().manual_seed(2 * self.seed + (split == "validation"))
        count = self.pairs if split == "train" else self.val_pairs
        rewards, reviews = world.rewards(), len(world.reviews())
        films = torch.randint(len(world.FILMS), (count,), generator=generator)
        first = torch.randint(reviews, (count,), generator=generator)
        # A uniform choice among all other reviews.
        other = (first + torch.randint(1, reviews, (count,), generator=generator)) % reviews
        yield from _labelled(films, first, other, rewards, world.DEFAULT, generator)

    def digest(self, split: str) -> str:
        """What identifies the rows of a split: they are a function of these settings."""
        return f"{self} {split} {code_digest('reviews')} {torch.__version__}"


@dataclass(frozen=True)
class LengthBiasedRows:
    """Rows in which longer reviews win, whatever their quality.

    Reviews have different lengths, all equally likely. The probability that the first of a row is preferred is
    σ(r₁ − r₂ + bias (n₁ − n₂)), where r is the true reward, which does not depend on the length, and n the number of
    words.

    Args:
        pairs: Number of training pairs.
        val_pairs: Number of validation pairs, sampled independently.
        seed: Random seed of the sample.
        lengths: Numbers of words of a review.
        bias: Bias of the labels per word, in units of the reward.
    """

    pairs: int = 20_000
    val_pairs: int = 4_000
    seed: int = 0
    lengths: world.Lengths = (1, 2, 3, 4)
    bias: float = 0.5

    def __call__(self, split: str) -> Iterator[dict[str, str]]:
        """Rows with `prompt`, `chosen` and `rejected` of `train` or `validation`."""
        generator = torch.Generator().manual_seed(2 * self.seed + (split == "validation"))
        count = self.pairs if split == "train" else self.val_pairs
        words = world.word_counts(self.lengths)
        films = torch.randint(len(world.FILMS), (count,), generator=generator)
        first, other = (world.probabilities(self.lengths).multinomial(count, True, generator=generator) for _ in "12")
        # The answers of a pair differ: the next review replaces one that was sampled twice.
        other = torch.where(first == other, (other + 1) % len(words), other)
        labels = world.rewards(self.lengths) + self.bias * words
        yield from _labelled(films, first, other, labels, self.lengths, generator)

    def digest(self, split: str) -> str:
        """What identifies the rows of a split: they are a function of these settings."""
        return f"{self} {split} {code_digest('reviews')} {torch.__version__}"


def _labelled(
    films: Tensor, first: Tensor, other: Tensor, rewards: Tensor, lengths: world.Lengths, generator: torch.Generator
) -> Iterator[dict[str, str]]:
    """Rows of two reviews each, with labels of the Bradley-Terry model of `rewards`, shape (films, reviews)."""
    probability = torch.sigmoid(rewards[films, first] - rewards[films, other])
    first_wins = torch.rand(len(films), generator=generator) < probability
    winners, losers = torch.where(first_wins, first, other), torch.where(first_wins, other, first)
    prompts, texts = world.prompts(), world.reviews(lengths)
    for film, winner, loser in zip(films.tolist(), winners.tolist(), losers.tolist(), strict=True):
        yield {"prompt": prompts[film], "chosen": texts[winner], "rejected": texts[loser]}
