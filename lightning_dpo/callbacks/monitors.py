"""The metrics that a run logs: a callback that monitors another one would fail at the first validation."""

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lightning import Callback
from lightning.pytorch.callbacks import LambdaCallback

from lightning_dpo.errors import UserError
from lightning_dpo.metrics import METRICS, preference_metrics

if TYPE_CHECKING:
    from lightning_dpo.module import DPOModule

_REWARDS = "val/rewards/"
_OWN_CODE = ("lightning", "lightning_dpo")


def known_metrics(module: "DPOModule", callbacks: Sequence[Callback]) -> set[str] | None:
    """The names of all metrics that callbacks can monitor; None if the user's own code may log others.

    A callback of this package that logs metrics has a method `metric_names(module)`.

    Args:
        module: The module.
        callbacks: The callbacks of the Trainer.
    """
    classes = [type(module), *map(type, callbacks)]
    if LambdaCallback in classes or any(one.__module__.split(".")[0] not in _OWN_CODE for one in classes):
        return None
    of_pairs = preference_metrics("", module.loss)
    names = {"step", "epoch", "train/grad_norm", "train/lr", "val/pairs"}
    names |= {f"{part}/{name}" for part in ("train", "val") for name in of_pairs}
    for callback in callbacks:
        if hasattr(callback, "metric_names"):
            names |= callback.metric_names(module)
    return names


def check_monitors(module: "DPOModule", callbacks: Sequence[Callback]) -> None:
    """Check that the run logs the metrics that callbacks monitor.

    Raises:
        UserError: It does not log one; the message contains the callback and similar metrics.
    """
    known = known_metrics(module, callbacks)
    for callback in callbacks:
        monitor, mode = getattr(callback, "monitor", None), getattr(callback, "mode", None)
        check_monitor(type(callback).__name__, monitor, mode, known)


def check_monitor(where: str, monitor: Any, mode: Any, known: set[str] | None) -> None:
    """Check that the run logs a metric, and that a callback looks for its better values.

    Args:
        where: The config key of the callback, or its class.
        monitor: Name of the metric; None: nothing to check.
        mode: `max` or `min`; None: not known.
        known: See `known_metrics`. With several sources, validation metrics exist for each source too.

    Raises:
        UserError: The run does not log it, or `mode` selects its worse values. The message contains similar metrics, or
            the right mode.
    """
    if monitor is None or known is None:
        return
    if monitor in known or _of_one_source(str(monitor)) in known:
        _check_mode(where, str(monitor), mode)
        return
    if _REWARDS in str(monitor) and not any(_REWARDS in name for name in known):
        raise UserError(f"{where}.monitor={monitor}: the loss has no rewards; monitor val/loss, and set mode=min")
    stem = str(monitor).rpartition("/")[2][:5]
    alike = [name for name in sorted(known, reverse=True) if stem and stem in name]  # `val/...` before `train/...`
    near = alike[:3] or difflib.get_close_matches(str(monitor), known, n=3, cutoff=0.5)
    listed = ", ".join(near or sorted(name for name in known if name.startswith("val/")))
    names = f"did you mean {listed}?" if near else f"there are {listed}"
    raise UserError(f"{where}.monitor={monitor}: this run does not log it; {names}")


def _check_mode(where: str, monitor: str, mode: Any) -> None:
    # A metric without a direction, such as a length, can be monitored in both modes.
    better = {metric.name: metric.higher_is_better for metric in METRICS}
    for name in (monitor, _of_one_source(monitor)):
        higher = better.get(name.partition("/")[2])
        if mode in ("max", "min") and higher is not None and higher is not (mode == "max"):
            direction, right = ("higher", "max") if higher else ("lower", "min")
            raise UserError(f"{where}.mode={mode}: {direction} values of {monitor} are better; set it to {right}")


def _of_one_source(monitor: str) -> str:
    """The name without its source: `val/loss` for `val/hh/loss`."""
    first, _, rest = monitor.partition("/")
    return f"{first}/{rest.partition('/')[2]}" if first == "val" else ""
