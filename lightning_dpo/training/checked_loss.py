"""Calls of a loss, whose code can be the user's, with checks of what it reads and returns."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from lightning_dpo.batch import CompletionLogps, NotComputed
from lightning_dpo.errors import UserError
from lightning_dpo.losses import PairLogps, PreferenceLoss, PreferenceLossFunction


def checked_loss(function: PreferenceLossFunction, pairs: PairLogps) -> PreferenceLoss:
    """Call `function` and check what it returns.

    Raises:
        UserError: It does not return one value per pair, has no gradient, or reads what it does not declare.
    """
    try:
        with _explained(function):
            loss = function(pairs)
    except RuntimeError:
        # Rewards of a wrong shape fail in the arithmetic of `losses`, with a message that does not name them.
        if function.has_rewards:
            checked_rewards(function, pairs.policy[0], pairs.reference[0])
        raise
    name = type(function).__name__
    if tuple(loss.logged) != tuple(function.logged):
        raise UserError(
            f"loss: {name}.logged_values() must return the names in logged, {list(function.logged)}; it returned "
            f"{list(loss.logged)}"
        )
    expected = pairs.chosen.shape
    _check_shape(function, "losses()", "pair", loss.losses, expected)
    for rewards in (loss.chosen_rewards, loss.rejected_rewards):
        if rewards is not None:
            _check_shape(function, "rewards()", "completion", rewards, expected)
    for key, values in loss.logged.items():
        _check_shape(function, f"logged_values()[{key!r}]", "pair", values, expected)
    if pairs.chosen.requires_grad and not loss.losses.requires_grad and torch.is_grad_enabled():
        raise UserError(f"loss: {name}.losses() has no gradient: compute it from the log-probs without detach()")
    return loss


def checked_rewards(
    function: PreferenceLossFunction, policy: CompletionLogps, reference: CompletionLogps | None
) -> Tensor:
    """The rewards of completions. Shape: (completions,).

    Raises:
        UserError: `rewards` does not return one value per completion, or reads what the loss does not declare.
    """
    with _explained(function):
        rewards = function.rewards(policy, reference)
    _check_shape(function, "rewards()", "completion", rewards, policy.sums.shape)
    return rewards


@contextmanager
def _explained(function: PreferenceLossFunction) -> Iterator[None]:
    name = type(function).__name__
    try:
        yield
    except (NotComputed, NotImplementedError) as error:
        raise UserError(f"loss: {name}: {error}") from error
    except AttributeError as error:
        # `reference.sums` in `rewards`: without a reference, `reference` is None.
        if error.obj is not None or function.needs_reference:
            raise
        raise UserError(f"loss: {name} reads reference log-probs, but has needs_reference = False") from error


def _check_shape(function: PreferenceLossFunction, method: str, unit: str, value: object, expected: torch.Size) -> None:
    if not isinstance(value, Tensor) or value.shape != expected:
        name = type(function).__name__
        shape = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise UserError(
            f"loss: {name}.{method} must return one value per {unit}, shape {tuple(expected)}, not a mean; it returned "
            f"{shape}"
        )
