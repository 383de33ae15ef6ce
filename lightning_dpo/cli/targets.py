"""Which classes and functions a config may name as `_target_`, by config key."""

import functools
import gc
import importlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lightning_dpo.errors import UserError
from lightning_dpo.settings import flat

log = logging.getLogger(__name__)


def _named(package: str, names: str) -> tuple[str, ...]:
    return tuple(f"{package}.{name}" for name in names.split())


# Allowed targets by config key. A name that ends with a dot allows the public names (`__all__`) of that folder of this
# package, and the optimizer classes of another. Anything else is listed by its full name, because functions such as
# `torch.hub.load` execute code from elsewhere.
ALLOWED_TARGETS = {
    "model": ("lightning_dpo.models.CausalLM", "lightning_dpo.reviews.TinyReviewer"),
    "adapter": _named("lightning_dpo.models", "NoAdapter LoRA Continue"),
    "reference": _named("lightning_dpo.models", "Auto Frozen AdapterOff AdapterCopy AnotherModel NoReference"),
    "data": ("lightning_dpo.data.PreferenceDataModule",),
    "data.source": ("lightning_dpo.data.sources.",),
    "data.rows": (
        "lightning_dpo.data.sources.HubRows",
        *_named("lightning_dpo.reviews", "ReviewRows LengthBiasedRows"),
    ),
    "loss": ("lightning_dpo.losses.",),
    "optimizer": ("lightning_dpo.training.default_optimizer", "torch.optim.", "bitsandbytes.optim."),
    "scheduler": _named("lightning_dpo.training", "transformers_schedule warmup_constant warmup_cosine"),
    "trainer": ("lightning.Trainer",),
    "trainer.profiler": _named("lightning.pytorch.profilers", "AdvancedProfiler PyTorchProfiler SimpleProfiler"),
    "trainer.strategy": ("lightning_dpo.training.FullySharded",),
    "logger": (
        *_named("lightning_dpo.runs", "csv_logger wandb_logger"),
        *_named("lightning.pytorch.loggers", "MLFlowLogger TensorBoardLogger"),
    ),
    "callbacks": (
        "lightning_dpo.callbacks.",
        "lightning_dpo.reviews.ClosedFormReport",
        *_named(
            "lightning.pytorch.callbacks",
            "DeviceStatsMonitor EarlyStopping LearningRateMonitor ModelCheckpoint ModelSummary RichModelSummary "
            "RichProgressBar Timer TQDMProgressBar",
        ),
    ),
    "samples": ("lightning_dpo.callbacks.Samples",),
}
TRUST = "trust_remote_code"
OWN_TARGETS_VARIABLE = "LIGHTNING_DPO_TARGETS"
# Read when the process starts: a config can set the environment of its jobs.
_OWN_NAMES = os.environ.get(OWN_TARGETS_VARIABLE, "").replace(" ", "").split(",")
# With a period at the end, so that `mine` does not allow `mineral.Loss`.
OWN_PACKAGES = tuple(f"{name.rstrip('.')}." for name in _OWN_NAMES if name.strip("."))


def targets(node: Any, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node below `node` with a `_target_`, inner ones first, and its key."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from targets(value, f"{key}.{name}".lstrip("."))
        if "_target_" in node:
            yield key, node
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from targets(value, f"{key}[{index}]")


def check_name(key: str, target: Any) -> None:
    """Check by its name only, without importing it, that a target is allowed at its key.

    Args:
        key: Key of the node in the config.
        target: Its `_target_`.

    Raises:
        UserError: It is not allowed; the message explains how to allow your own package.
    """
    if any(str(target).startswith(name) for name in OWN_PACKAGES):
        return
    listed_key, allowed = _allowed_at(key)
    folder, _, name = str(target).rpartition(".")
    if target in allowed or (name and f"{folder}." in allowed):
        return
    raise UserError(
        f"{key}._target_={target} is not allowed: lightning_dpo/cli/targets.py lists what {listed_key} may be; to "
        f"allow your own package, set {OWN_TARGETS_VARIABLE}=mypackage in the environment"
    )


def _allowed_at(key: str) -> tuple[str, tuple[str, ...]]:
    """The longest listed prefix of `key`, and the targets that are allowed there."""
    parts = re.split(r"[.\[]", key)
    prefixes = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    listed_key = next((name for name in prefixes if name in ALLOWED_TARGETS), "")
    return listed_key or key, ALLOWED_TARGETS.get(listed_key, ())


@functools.cache
def resolved(key: str, target: str) -> Any:
    """Import an allowed target.

    A public name of this package, an optimizer, a listed name, or what your own package defines. A name that a module
    only imports is not allowed: `lightning_dpo.models.os.system` would be one.

    Raises:
        UserError: It does not exist, is not allowed, or cannot be called.
    """
    check_name(key, target)
    path, _, name = target.rpartition(".")
    try:
        with _no_garbage_collection():
            module = importlib.import_module(path)
        value = getattr(module, name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{key}._target_={target} cannot be imported ({error})") from error
    own = next((package for package in OWN_PACKAGES if target.startswith(package)), None)
    if own is not None:
        log.info("%s: %s is allowed by %s.", key, target, OWN_TARGETS_VARIABLE)
        allowed = f"{getattr(value, '__module__', None)}.".startswith(own)
    elif path.startswith("lightning_dpo."):
        allowed = target in _allowed_at(key)[1] or name in module.__all__
    else:
        allowed = target in _allowed_at(key)[1] or is_optimizer(value)
    if not callable(value) or not allowed:
        raise UserError(f"{key}._target_={target} is not allowed: it is not a public class or function of {path}")
    return value


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Context without garbage collection, which takes a fifth of the time of an import and frees nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def is_optimizer(value: Any) -> bool:
    """Whether `value` is a class of optimizers."""
    from torch.optim import Optimizer

    return isinstance(value, type) and issubclass(value, Optimizer)


def check_trust(settings: Any, overrides: Sequence[str]) -> None:
    """Check that `trust_remote_code` is set on the command line only: a config file may come from the model's author.

    Args:
        settings: The resolved config.
        overrides: The overrides on the command line, `key=value` each.

    Raises:
        UserError: A file sets it.
    """
    asked = {override.lstrip("+").lower() for override in overrides}
    for key, value in flat(settings).items():
        # Also as a nested key, such as reference.trust_remote_code.
        if key.rpartition(".")[2] == TRUST and value and f"{key.lower()}=true" not in asked:
            raise UserError(
                f"{key}={value} is set in a file; the code of a model is executed only if the command line sets "
                f"{key}=true, or --trust-remote-code for export"
            )
