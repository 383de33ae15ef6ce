"""`PairLogps` for loss tests."""

import torch

from lightning_dpo.losses import PairLogps


def logps_of(chosen, rejected, reference_chosen, reference_rejected, offset=None, lengths=(4.0, 5.0)) -> PairLogps:
    chosen, rejected, reference_chosen, reference_rejected = (
        torch.as_tensor(values) for values in (chosen, rejected, reference_chosen, reference_rejected)
    )
    return PairLogps(
        chosen,
        rejected,
        reference_chosen,
        reference_rejected,
        chosen_length=torch.full_like(chosen, lengths[0]),
        rejected_length=torch.full_like(chosen, lengths[1]),
        offset=torch.zeros_like(chosen) if offset is None else torch.tensor(offset),
        mean_chosen_length=torch.tensor(lengths[0]),
    )


def random_logps(pairs: int = 6, seed: int = 0, offset: bool = True) -> PairLogps:
    generator = torch.Generator().manual_seed(seed)
    values = [-20 * torch.rand(pairs, generator=generator) for _ in range(4)]
    lengths = [torch.randint(1, 9, (pairs,), generator=generator).float() for _ in range(2)]
    offsets = torch.rand(pairs, generator=generator) if offset else torch.zeros(pairs)
    return PairLogps(*values, *lengths, offsets, lengths[0].mean())
