"""Checks before the first update: the loss reads the data's columns, and the policy equals its reference."""

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
    """Check that before the first update all log-ratios are 0 and the loss has the value that follows from that.

    The loss itself computes this value from the reference's log-probs: ln 2 for DPO.

    Args:
        function: The loss.
        loss: The result of `function` for `logps`.
        logps: Log-probs of the first micro-batch.
        batch: The micro-batch, for the rows of its pairs.
        precision: Precision of the Trainer; it decides how close two forward passes of one model are.
        place: Returns the location of a row, for the message.

    Raises:
        UserError: A log-ratio is not 0 within the precision's tolerance, or the loss has another value.
    """
    ratios = torch.stack([logps.chosen_logratio, logps.rejected_logratio]).detach()
    tokens = torch.stack([logps.chosen_length, needed(logps.rejected_length, "rejected completions")])
    off = (ratios.abs() > tokens.sqrt() * tolerance(precision)).any(0)
    start = function(logps.at_start()).losses
    # If all log-ratios are exactly 0, both calls have the same input, and must have the same result.
    wrong = (ratios.abs().max() == 0) & (not torch.allclose(loss.losses.detach(), start))
    if on_all_devices(~(off.any() | wrong)):
        return
    worst = ratios.abs().max().item()
    bad = of_all_devices(batch.pair_index[off].tolist())
    raise UserError(
        f"before the first update, the policy differs from its reference: the largest log-ratio is {worst:.3g} nats "
        f"instead of 0, and the mean loss is {loss.losses.mean().item():.6f} instead of {start.mean().item():.6f} "
        f"({named(bad, place)}). Likely causes: the module has been trained before (resume with ckpt_path, or create a "
        "new one), dropout is active, the forward pass is random, weights were loaded after the reference was created, "
        "or the two use different dtypes or attention kernels"
    )
