"""Checks before the first update: what the loss declares, the columns of the data, and a policy at its reference."""

from collections.abc import Callable, Collection
from dataclasses import is_dataclass

import torch

from lightning_dpo.batch import PreferenceBatch
from lightning_dpo.errors import UserError
from lightning_dpo.logps.tolerance import tolerance
from lightning_dpo.losses import Modifier, PairLogps, PreferenceLoss, PreferenceLossFunction
from lightning_dpo.losses.interface import COLUMNS
from lightning_dpo.training.rank_checks import named, of_all_devices, on_all_devices


def check_declared(function: object) -> None:
    """Check what can be known of a loss before any data or model is read.

    Raises:
        UserError: It is not a loss, it declares rewards and does not define them, or it declares unknown columns.
    """
    name = type(function).__name__
    # A dataclass, because its representation identifies the loss in checkpoints.
    if not isinstance(function, PreferenceLossFunction) or not is_dataclass(function):
        raise UserError(
            f"loss={function!r} must be an instance of a dataclass that derives from PreferenceLossFunction, such as "
            "DPO(beta=0.1)"
        )
    if isinstance(function, Modifier) and not isinstance(function.loss, PreferenceLossFunction):
        raise UserError(f"loss: {name} must hold a loss in loss.loss, such as DPO(beta=0.1), got {function.loss!r}")
    if unknown := sorted(set(function.columns) - COLUMNS):
        raise UserError(f"loss: {name}.columns: {unknown[0]!r} is not a column; there are {', '.join(sorted(COLUMNS))}")
    if function.whole_step and (function.needs_tokens or "label_noise" in function.columns):
        raise UserError(
            f"loss: {name} compares the pairs of a step, for which neither log-probs of tokens nor label_noise are "
            "available: set needs_tokens = False, and columns without label_noise"
        )
    if function.has_rewards and type(function).rewards is PreferenceLossFunction.rewards:
        raise UserError(f"loss: {name} does not define rewards(): define it, or set has_rewards = False in the class")


def check_columns(function: PreferenceLossFunction, columns: Collection[str]) -> None:
    """Check that the loss reads the numeric columns of the data.

    Raises:
        UserError: A column has no effect.
    """
    for name in sorted(set(columns) - function.columns):
        raise UserError(f"data.source.{name} has no effect: {function!r} does not read {name}; leave it out")


def check_step_pairs(batch: PreferenceBatch, micro_batches: int) -> None:
    """Check that the first batch of a loader belongs to a step of `micro_batches` batches like it.

    Raises:
        UserError: It does not, so the gradient would have another scale.
    """
    pairs, expected = int(batch.step_pairs), int(batch.counted.sum()) * micro_batches
    if pairs != expected:
        raise UserError(
            f"the batches of the loader belong to optimizer steps of {pairs} pairs, and the Trainer makes steps of "
            f"{expected}: use PreferenceCollator(..., micro_batches_per_step={micro_batches}), which is "
            "accumulate_grad_batches * devices"
        )


def check_start(
    function: PreferenceLossFunction,
    loss_of: Callable[[PairLogps], PreferenceLoss],
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
        loss_of: Computes it for these pairs of the step.
        loss: The result of `loss_of` for `logps`.
        logps: Log-probs of the first micro-batch.
        batch: The micro-batch, for the rows of its pairs.
        precision: Precision of the Trainer; it decides how close two forward passes of one model are.
        place: Returns the location of a row, for the message.

    Raises:
        UserError: A log-ratio is not 0 within the precision's tolerance, or the loss has another value.
    """
    sides = [(logps.chosen_logratio, logps.chosen_length)]
    if logps.has_rejected:
        sides.append((logps.rejected_logratio, logps.rejected_length))
    ratios, tokens = (torch.stack(values).detach() for values in zip(*sides, strict=True))
    off = (ratios.abs() > tokens.sqrt() * tolerance(precision)).any(0)
    start = loss_of(logps.at_start()).losses
    # If all log-ratios are exactly 0, both calls have the same input, and must have the same result.
    wrong = (ratios.abs().max() == 0) & (not torch.allclose(loss.losses.detach(), start))
    if on_all_devices(~(off.any() | wrong)):
        return
    if not start.isfinite().all():
        raise UserError(f"the loss {function!r} is not finite for a policy that equals its reference: use other values")
    worst = ratios.abs().max().item()
    bad = of_all_devices(batch.pair_index[off].tolist())
    raise UserError(
        f"before the first update, the policy differs from its reference: the largest log-ratio is {worst:.3g} nats "
        f"instead of 0, and the mean loss is {loss.losses.mean().item():.6f} instead of {start.mean().item():.6f} "
        f"({named(bad, place)}). Likely causes: dropout is active, the forward pass is random, weights were "
        "loaded into the policy after the reference was created, or the two use different dtypes or attention kernels"
    )
