"""The fields of a batch that belong to its pairs, the same in every layout."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_dpo.data.pairs import MicroBatch, TokenizedPair


def pair_columns(micro_batch: MicroBatch) -> dict[str, Tensor]:
    """Everything of a batch that does not depend on where tokens lie."""
    pairs: Sequence[TokenizedPair] = micro_batch.pairs
    weight = torch.tensor([pair.weight for pair in pairs], dtype=torch.float32)
    counted = torch.tensor(micro_batch.counted)
    return {
        "pair_index": torch.tensor([pair.index for pair in pairs]),
        "weight": weight * counted,
        "counted": counted,
        "offset": torch.tensor([pair.offset for pair in pairs], dtype=torch.float32),
        "source": torch.tensor([pair.source for pair in pairs]),
        "step_pairs": torch.tensor(float(micro_batch.step_pairs)),
        "step_chosen_tokens": torch.tensor(float(micro_batch.step_chosen_tokens)),
    }
