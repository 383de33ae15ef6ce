"""The fields of a batch that describe its pairs and do not depend on the layout."""

import itertools
from collections.abc import Iterable, Sequence
from typing import TypedDict

import torch
from torch import Tensor

from lightning_dpo.batch import MicroBatch


class PairColumns(TypedDict):
    """Arguments of `PreferenceBatch`."""

    pair_index: Tensor
    weight: Tensor
    counted: Tensor
    offset: Tensor
    label_noise: Tensor | None
    source: Tensor
    step_pairs: Tensor
    step_chosen_tokens: Tensor


def pair_columns(micro_batch: MicroBatch) -> PairColumns:
    """The fields of a batch that do not depend on the layout."""
    pairs = micro_batch.pairs
    counted = torch.tensor(micro_batch.counted)
    noise = [pair.label_noise for pair in pairs]
    return PairColumns(
        pair_index=torch.tensor([pair.index for pair in pairs]),
        weight=torch.tensor([pair.weight for pair in pairs], dtype=torch.float32) * counted,
        counted=counted,
        offset=torch.tensor([pair.offset for pair in pairs], dtype=torch.float32),
        label_noise=torch.tensor(noise, dtype=torch.float32) if any(noise) else None,
        source=torch.tensor([pair.source for pair in pairs]),
        step_pairs=torch.tensor(float(micro_batch.step_pairs)),
        step_chosen_tokens=torch.tensor(float(micro_batch.step_chosen_tokens)),
    )


def joined(logps: Iterable[Sequence[float] | None]) -> Tensor | None:
    """Log-probs of all completions under the reference, one after the other; None if those of one are unknown."""
    known = list(logps)
    whole = [values for values in known if values is not None]
    if len(whole) < len(known):
        return None
    return torch.tensor(list(itertools.chain.from_iterable(whole)), dtype=torch.float32)
