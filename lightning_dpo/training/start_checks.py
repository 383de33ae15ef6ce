"""What must hold before weights change: the right start, and finite numbers."""

from collections.abc import Callable

import torch
from torch import Tensor, distributed

from lightning_dpo.batch import PreferenceBatch
from lightning_dpo.errors import UserError
from lightning_dpo.logps.tolerance import tolerance
from lightning_dpo.losses.interface import PairLogps, PreferenceLoss, PreferenceLossFunction, needed


class StepRecord:
    """The pairs of the optimizer step in progress and their losses, so that a bad one can be named."""

    def __init__(self) -> None:
        self._pairs: list[Tensor] = []
        self._losses: list[Tensor] = []

    def add(self, batch: PreferenceBatch, loss: PreferenceLoss) -> None:
        """Remember a micro-batch."""
        self._pairs.append(batch.pair_index)
        self._losses.append(loss.losses.detach())

    def clear(self) -> None:
        """Forget the step."""
        self._pairs.clear()
        self._losses.clear()

    def finite(self) -> Tensor:
        """Whether every loss is finite. Shape: (), bool."""
        return torch.cat(self._losses).isfinite().all()

    def non_finite(self) -> list[int]:
        """Rows of the pairs whose loss is not finite."""
        return torch.cat(self._pairs)[~torch.cat(self._losses).isfinite()].tolist()

    def all(self) -> list[int]:
        """Rows of all pairs of the step."""
        return torch.cat(self._pairs).tolist()


def checked_loss(function: PreferenceLossFunction, logps: PairLogps) -> PreferenceLoss:
    """What `function` gives for `logps`.

    Raises:
        UserError: It has no rewards, and its class does not say so.
    """
    loss = function(logps)
    if function.has_rewards and loss.chosen_rewards is None:
        name = type(function).__name__
        raise UserError(f"loss: {name} returns no rewards: return them, or set has_rewards = False in the class")
    return loss


def check_start(
    function: PreferenceLossFunction,
    loss: PreferenceLoss,
    logps: PairLogps,
    batch: PreferenceBatch,
    precision: str,
    place: Callable[[int], str],
) -> None:
    """Before the first update, the policy is the reference: every log-ratio is 0, and the loss what follows from that.

    What follows is computed by the loss itself from the reference's log-probs alone: ln 2 for DPO.

    Args:
        function: The loss.
        loss: What it gave.
        logps: What it was given.
        batch: The micro-batch, for the pairs' rows.
        precision: The Trainer's; it decides how close two forward passes of one model must come.
        place: Names a row, for the message.

    Raises:
        UserError: A log-ratio is not 0 within the precision's tolerance, or the loss not where it should be.
    """
    ratios = torch.stack([logps.chosen_logratio, logps.rejected_logratio]).detach()
    tokens = torch.stack([logps.chosen_length, needed(logps.rejected_length, "rejected completions")])
    off = (ratios.abs() > tokens.sqrt() * tolerance(precision)).any(0)
    start = function(logps.at_start()).losses
    wrong = (ratios.abs().max() == 0) & (not torch.allclose(loss.losses.detach(), start))
    if on_all_devices(~(off.any() | wrong)):
        return
    worst = ratios.abs().max().item()
    bad = _of_all_devices(batch.pair_index[off].tolist())
    raise UserError(
        f"before the first update the policy is not its reference: the largest log-ratio is {worst:.3g} nats "
        f"instead of 0, the mean loss {loss.losses.mean().item():.6f} instead of {start.mean().item():.6f} "
        f"({_named(bad, place)}). Likely causes: dropout that is still on, a "
        "model whose forward pass is random, weights loaded after the reference was copied, or another dtype or "
        "attention kernel for one of the two"
    )


def check_finite(norm: Tensor, record: StepRecord, place: Callable[[int], str]) -> None:
    """Stop before the update when a loss or the gradient of the step is not finite: on all devices, or on none.

    Args:
        norm: The gradient's norm over all parameters.
        record: The step's pairs.
        place: Names a row, for the message.

    Raises:
        UserError: It is not finite; the message names the pairs.
    """
    finite = norm.isfinite() & record.finite().to(norm.device)
    if on_all_devices(finite):
        return
    bad, every = _of_all_devices(record.non_finite()), _of_all_devices(record.all())
    what = f"the loss of {_named(bad, place)}" if bad else f"the gradient of {_named(every, place)}"
    raise UserError(
        f"{what} is not finite, so the update was not made and the last checkpoint is whole. Likely causes: a learning "
        "rate that is too large, fp16 (use bf16-mixed or 32-true), or a broken row"
    )


def on_all_devices(flag: Tensor) -> bool:
    """Whether `flag`, shape (), holds on every device."""
    agreed = flag.int()
    if distributed.is_available() and distributed.is_initialized():
        # A device that went on alone would wait for the others until its patience ends.
        distributed.all_reduce(agreed, distributed.ReduceOp.MIN)
    return bool(agreed)


def _of_all_devices(rows: list[int]) -> list[int]:
    if not distributed.is_available() or not distributed.is_initialized():
        return rows
    everywhere: list[list[int]] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(everywhere, rows)
    return [row for found in everywhere for row in found]


def _named(rows: list[int], place: Callable[[int], str], most: int = 16) -> str:
    more = f" and {len(rows) - most} more" if len(rows) > most else ""
    return ", ".join(place(row) for row in rows[:most]) + more
