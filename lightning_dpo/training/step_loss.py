"""The loss of the pairs of one device, also for a loss that compares all pairs of the optimizer step."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from lightning import LightningModule
from torch import Tensor

from lightning_dpo.batch import PreferenceBatch
from lightning_dpo.losses import PairLogps, PreferenceLoss, PreferenceLossFunction
from lightning_dpo.training.checked_loss import checked_loss


def step_loss(
    function: PreferenceLossFunction, pairs: PairLogps, counted: Tensor, module: LightningModule
) -> PreferenceLoss:
    """The loss of the pairs of one device. For a loss with `whole_step`, a collective call.

    Args:
        function: The loss.
        pairs: A micro-batch; for a loss with `whole_step`, all pairs of the step on this device.
        counted: False for a filler pair. Shape: (pairs,), bool.
        module: The module, which gathers tensors from all devices.

    Raises:
        UserError: See `checked_loss`.
    """
    if not function.whole_step:
        return checked_loss(function, pairs)
    # Devices can have different numbers of pairs, and a collective call needs the same number from all.
    longest = int(torch.as_tensor(module.all_gather(torch.tensor(len(counted), device=counted.device))).max())

    def of_all(values: Tensor) -> Tensor:
        gathered = module.all_gather(F.pad(values, (0, longest - len(values))), sync_grads=values.requires_grad)
        return torch.as_tensor(gathered).reshape(-1)

    real = of_all(counted.int()).bool()
    loss = checked_loss(function, pairs.with_tensors(of_all(value)[real] for value in pairs.tensors()))
    first = int(real[: longest * module.global_rank].sum())

    def mine(values: Tensor) -> Tensor:
        own = values[first : first + int(counted.sum())]
        return values.new_zeros(len(counted)).masked_scatter(counted, own)

    logged = {name: mine(values) for name, values in loss.logged.items()}
    with torch.no_grad():
        rewards = function.pair_rewards(pairs) if function.has_rewards else (None, None)
    return PreferenceLoss(mine(loss.losses), rewards[0], rewards[1], logged)


class EvaluatedPairs(NamedTuple):
    """The pairs of a validation batch, kept until all are known, for a loss with `whole_step`."""

    logps: PairLogps
    weight: Tensor
    counted: Tensor
    source: Tensor

    @classmethod
    def of(cls, logps: PairLogps, batch: PreferenceBatch) -> "EvaluatedPairs":
        """The pairs of `batch`."""
        return cls(logps, batch.weight, batch.counted, batch.source)

    @classmethod
    def concatenated(cls, parts: Sequence["EvaluatedPairs"]) -> "EvaluatedPairs":
        """All pairs of `parts`."""
        values = (torch.cat(tensors) for tensors in zip(*(part.logps.tensors() for part in parts), strict=True))
        logps = parts[0].logps.with_tensors(values)
        return cls(logps, *(torch.cat(tensors) for tensors in zip(*(part[1:] for part in parts), strict=True)))
