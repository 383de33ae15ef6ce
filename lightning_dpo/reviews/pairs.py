"""Preference pairs over reviews: drawn uniformly, labelled by Bradley and Terry's model of the true rewards."""

from pathlib import Path

import torch
from datasets import Dataset

from lightning_dpo.errors import UserError
from lightning_dpo.reviews import world


def review_pairs(
    split: str, path: str | Path | None = None, *, pairs: int = 20_000, val_pairs: int = 4_000, seed: int = 0
) -> Dataset:
    """Pairs of two different reviews of one film; whichever wins is drawn with probability σ(r₁ − r₂).

    Args:
        split: `train` or `validation`; the two are drawn independently.
        path: Must be None: there is no file.
        pairs: Training pairs.
        val_pairs: Validation pairs.
        seed: Of the draw.

    Returns:
        Rows of `PreferencePair`.
    """
    if path is not None:
        raise UserError(f"data.path={path} has no effect with data=reviews, which is made in code: use data=jsonl")
    generator = torch.Generator().manual_seed(2 * seed + (split == "validation"))
    count = pairs if split == "train" else val_pairs
    rewards = world.rewards()
    films = torch.randint(len(world.FILMS), (count,), generator=generator)
    first = torch.randint(len(world.REVIEWS), (count,), generator=generator)
    # A uniform choice among all other reviews.
    other = (first + torch.randint(1, len(world.REVIEWS), (count,), generator=generator)) % len(world.REVIEWS)
    first_wins = torch.rand(count, generator=generator) < torch.sigmoid(rewards[films, first] - rewards[films, other])
    winners, losers = torch.where(first_wins, first, other), torch.where(first_wins, other, first)
    prompts, texts = world.prompts(), world.reviews()
    return Dataset.from_dict(
        {
            "prompt": [prompts[film] for film in films],
            "chosen": [texts[review] for review in winners],
            "rejected": [texts[review] for review in losers],
        }
    )
