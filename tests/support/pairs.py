"""Tokenized pairs and batches of them."""

from pathlib import Path

import torch

from lightning_dpo.batch import MicroBatch, TokenizedPair
from lightning_dpo.layouts import PaddedLayout, SharedLayout
from tests.support.models import VOCABULARY

HH_FILE = Path(__file__).parents[3] / "shared" / "data" / "hh-harmless-1800.jsonl.gz"


def random_pairs(count: int, seed: int = 0, vocabulary: int = VOCABULARY) -> list[TokenizedPair]:
    """Pairs of random tokens and unequal lengths; the offset is not 0, so that ignoring it shows."""
    generator = torch.Generator().manual_seed(seed)

    def ids(longest: int) -> list[int]:
        length = int(torch.randint(1, longest + 1, (), generator=generator))
        return torch.randint(1, vocabulary, (length,), generator=generator).tolist()

    return [TokenizedPair(row, ids(9), ids(6), ids(7)) for row in range(count)]


def padded_batch(pairs: list[TokenizedPair], **options):
    """All of `pairs` as one step of one batch."""
    tokens = sum(len(pair.chosen_ids) for pair in pairs)
    return PaddedLayout(pad_token_id=0, **options)(MicroBatch(pairs, [True] * len(pairs), len(pairs), tokens))


def shared_batch(pairs: list[TokenizedPair], **options):
    """The same as one stream."""
    tokens = sum(len(pair.chosen_ids) for pair in pairs)
    return SharedLayout(**options)(MicroBatch(pairs, [True] * len(pairs), len(pairs), tokens))


def pairs_of_shared_prompts() -> list[TokenizedPair]:
    """Six pairs over three prompts of 9 to 11 tokens; every second has a completion of the pair before it."""
    generator = torch.Generator().manual_seed(1)
    pairs = []
    for row in range(3):
        sizes = (9 + row, 4 + row, 7 - row, 2)
        prompt, good, middling, bad = (torch.randint(1, VOCABULARY, (n,), generator=generator).tolist() for n in sizes)
        pairs += [TokenizedPair(2 * row, prompt, good, middling), TokenizedPair(2 * row + 1, prompt, middling, bad)]
    return pairs


def shares_prompts(data) -> bool:
    """Whether the batches of a data module have the shared layout."""
    return next(iter(data.val_dataloader())).segments is not None
