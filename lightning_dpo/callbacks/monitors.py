"""The metrics that a run logs: a callback that monitors another one would fail at the first validation."""

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lightning import Callback
from lightning.pytorch.callbacks import LambdaCallback

from lightning_dpo.errors import UserError

if TYPE_CHECKING:
    from lightning_dpo.module import DPOModule

_OWN_CODE = ("lightning", "lightning_dpo")


def known_metrics(module: "DPOModule", callbacks: Sequence[Callback]) -> set[str] | None:
    """The names of all metrics that callbacks can monitor; None if code of the user may log others.

    A callback of this package that logs metrics has a method `metric_names(module)`.

    Args:
        module: The module.
        callbacks: The callbacks of the Trainer.
    """
    classes = [type(module), *map(type, callbacks)]
    if LambdaCallback in classes or any(one.__module__.split(".")[0] not in _OWN_CODE for one in classes):
        return None
    own = map(str, (*module.train_metrics.keys(), *module.val_metrics.keys()))
    names = {"step", "epoch", "train/grad_norm", "train/lr", *own}
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
        check_monitor(f"{type(callback).__name__}: monitor", getattr(callback, "monitor", None), known)


def check_monitor(where: str, monitor: Any, known: set[str] | None) -> None:
    """Check that the run logs a metric.

    Args:
        where: The config key or the callback that monitors it.
        monitor: Name of the metric; None: nothing to check.
        known: See `known_metrics`. With several sources, validation metrics exist for each source too.

    Raises:
        UserError: It does not; the message contains similar metrics, or all metrics of validation.
    """
    if monitor is None or known is None or monitor in known or _of_one_source(str(monitor)) in known:
        return
    stem = str(monitor).rpartition("/")[2][:5]
    alike = [name for name in sorted(known, reverse=True) if stem and stem in name]  # `val/...` before `train/...`
    near = alike[:3] or difflib.get_close_matches(str(monitor), known, n=3, cutoff=0.5)
    listed = near or sorted(name for name in known if name.startswith("val/"))
    words = "did you mean" if near else "there are"
    raise UserError(f"{where}={monitor}: this run does not log it; {words} {', '.join(listed)}{'?' if near else ''}")


def _of_one_source(monitor: str) -> str:
    """The name without its source: `val/loss` for `val/hh/loss`."""
    first, _, rest = monitor.partition("/")
    return f"{first}/{rest.partition('/')[2]}" if first == "val" else ""
