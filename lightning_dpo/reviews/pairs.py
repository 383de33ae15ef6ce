"""Preference pairs of reviews: sampled uniformly, labelled by the Bradley-Terry model of the true rewards."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

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
        rewards = world.rewards()
        films = torch.randint(len(world.FILMS), (count,), generator=generator)
        first = torch.randint(len(world.REVIEWS), (count,), generator=generator)
        # A uniform choice among all other reviews.
        other = (first + torch.randint(1, len(world.REVIEWS), (count,), generator=generator)) % len(world.REVIEWS)
        probability = torch.sigmoid(rewards[films, first] - rewards[films, other])
        first_wins = torch.rand(count, generator=generator) < probability
        winners, losers = torch.where(first_wins, first, other), torch.where(first_wins, other, first)
        prompts, texts = world.prompts(), world.reviews()
        for film, winner, loser in zip(films.tolist(), winners.tolist(), losers.tolist(), strict=True):
            yield {"prompt": prompts[film], "chosen": texts[winner], "rejected": texts[loser]}
