"""`PairLogps` for loss tests."""

import torch

from lightning_dpo.batch import CompletionLogps
from lightning_dpo.losses import PairLogps


def logps_of(chosen, rejected, reference_chosen, reference_rejected, offset=None, lengths=(4.0, 5.0)) -> PairLogps:
    sums = [torch.as_tensor(values) for values in (chosen, rejected, reference_chosen, reference_rejected)]
    counts = [torch.as_tensor(length).to(sums[0].dtype).expand(len(sums[0])) for length in lengths]
    offset = torch.zeros_like(sums[0]) if offset is None else torch.as_tensor(offset)
    return pairs_of(sums, counts, offset)


def pairs_of(sums, lengths, offset, tokens=(None,) * 4) -> PairLogps:
    """Sums and tokens of policy and reference, chosen and rejected; lengths of chosen and rejected."""
    sides = [CompletionLogps(*values) for values in zip(sums, (*lengths, *lengths), tokens, strict=True)]
    return PairLogps((sides[0], sides[1]), (sides[2], sides[3]), offset, lengths[0].mean())


def random_logps(pairs: int = 6, seed: int = 0, offset: bool = True) -> PairLogps:
    """Sums are those of the tokens."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [torch.randint(1, 9, (pairs,), generator=generator) for _ in range(2)]
    tokens = [_tokens(count, generator) for count in (*lengths, *lengths)]
    offsets = torch.rand(pairs, generator=generator) if offset else torch.zeros(pairs)
    return pairs_of([one.sum(1) for one in tokens], [count.float() for count in lengths], offsets, tokens)


def _tokens(lengths, generator):
    values = -5 * torch.rand(len(lengths), int(lengths.max()), generator=generator)
    return torch.where(torch.arange(values.shape[1]) < lengths[:, None], values, 0)
