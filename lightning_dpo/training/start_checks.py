"""The right start: before the first update, the policy is its reference."""

from collections.abc import Callable, Collection

import torch

from lightning_dpo.batch import PreferenceBatch
from lightning_dpo.errors import UserError
from lightning_dpo.logps.tolerance import tolerance
from lightning_dpo.losses.interface import PairLogps, PreferenceLoss, PreferenceLossFunction, needed
from lightning_dpo.training.rank_checks import named, of_all_devices, on_all_devices


def check_columns(function: PreferenceLossFunction, columns: Collection[str]) -> None:
    """Check that the loss reads the numeric columns of the data.

    Raises:
        UserError: A column has no effect.
    """
    for name in sorted(set(columns) - function.columns):
        raise UserError(f"data.source.{name} has no effect: {function!r} does not read {name}; leave it out")


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
    bad = of_all_devices(batch.pair_index[off].tolist())
    raise UserError(
        f"before the first update the policy is not its reference: the largest log-ratio is {worst:.3g} nats "
        f"instead of 0, the mean loss {loss.losses.mean().item():.6f} instead of {start.mean().item():.6f} "
        f"({named(bad, place)}). Likely causes: a module that was trained already (resume by ckpt_path, or make a new "
        "one), dropout that is still on, a model whose forward pass is random, weights loaded after the reference was "
        "copied, or another dtype or attention kernel for one of the two"
    )
