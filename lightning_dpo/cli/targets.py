"""What a config may name and with which arguments: checked before anything is called."""

import difflib
import functools
import importlib
import inspect
import logging
import os
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any, get_type_hints

from lightning_dpo.errors import UserError
from lightning_dpo.settings import flat

log = logging.getLogger(__name__)


def _named(package: str, names: str) -> tuple[str, ...]:
    return tuple(f"{package}.{name}" for name in names.split())


# Allowed targets by config key. A name that ends with a dot allows the public names (`__all__`) of that folder of this
# package. Other packages are listed by full names, because `torch.hub.load`, for example, runs foreign code.
ALLOWED_TARGETS = {
    "model": ("lightning_dpo.models.CausalLM", "lightning_dpo.reviews.TinyReviewer"),
    "adapter": _named("lightning_dpo.models", "NoAdapter LoRA Continue"),
    "reference": _named("lightning_dpo.models", "Auto Frozen AdapterOff AdapterCopy AnotherModel NoReference"),
    "data": ("lightning_dpo.data.PreferenceDataModule",),
    "data.source": ("lightning_dpo.data.sources.", "lightning_dpo.reviews.review_pairs"),
    "loss": ("lightning_dpo.losses.",),
    "optimizer": (
        "lightning_dpo.training.default_optimizer",
        *_named("torch.optim", "Adafactor Adam AdamW NAdam RAdam RMSprop SGD"),
    ),
    "scheduler": _named("lightning_dpo.training", "warmup_constant warmup_cosine"),
    "trainer": ("lightning.Trainer",),
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
OWN_PACKAGES = tuple(name for name in os.environ.get(OWN_TARGETS_VARIABLE, "").split(",") if name.endswith("."))


def targets(node: Any, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node below `node` with a `_target_`, inner ones first, and its key."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from targets(value, f"{key}.{name}".lstrip("."))
        if "_target_" in node:
            yield key, node
    elif isinstance(node, list):
        for place, value in enumerate(node):
            yield from targets(value, f"{key}[{place}]")


def check_name(key: str, target: Any) -> None:
    """Refuse a target that is not allowed at its place, by its name only.

    Args:
        key: Of the node in the config.
        target: Its `_target_`.

    Raises:
        UserError: Names the key and how to allow a package of one's own.
    """
    if any(str(target).startswith(name) for name in OWN_PACKAGES):
        log.info("%s: %s is allowed by %s.", key, target, OWN_TARGETS_VARIABLE)
        return
    place, allowed = _allowed_at(key)
    folder, _, name = str(target).rpartition(".")
    if target in allowed or (name and f"{folder}." in allowed):
        return
    raise UserError(
        f"{key}._target_={target} is not allowed: under {place}, a config may name what lightning_dpo/cli/targets.py "
        f"lists, and your own package when the environment says {OWN_TARGETS_VARIABLE}=mypackage."
    )


def _allowed_at(key: str) -> tuple[str, tuple[str, ...]]:
    """The nearest key at or above `key` that is listed, and what may be named there."""
    parts = re.split(r"[.\[]", key)
    above = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    place = next((name for name in above if name in ALLOWED_TARGETS), "")
    return place or key, ALLOWED_TARGETS.get(place, ())


@functools.cache
def resolved(key: str, target: str) -> Any:
    """What `target` names: a public name of this package, or what is defined in your own package.

    Raises:
        UserError: There is no such thing, or it may not be named, or cannot be called.
    """
    check_name(key, target)
    path, _, name = target.rpartition(".")
    try:
        module = importlib.import_module(path)
        value = getattr(module, name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{key}._target_={target}: there is no such thing ({error})") from error
    own = next((package for package in OWN_PACKAGES if target.startswith(package)), None)
    if own is not None:  # defined there, not merely imported
        allowed = f"{getattr(value, '__module__', None)}.".startswith(own)
    else:
        allowed = target in _allowed_at(key)[1] or name in getattr(module, "__all__", ())
    if not callable(value) or not allowed:
        raise UserError(f"{key}._target_={target} is not allowed: it is no class or function of that package")
    return value


def check_trust(settings: Any, overrides: Sequence[str]) -> None:
    """Refuse code that comes with a model, unless the command line itself asks for it.

    A config may have come with the model.

    Args:
        settings: The config, resolved.
        overrides: What the command line set, `key=value` each.

    Raises:
        UserError: Names the key.
    """
    asked = {override.lstrip("+").lower() for override in overrides}
    for key, value in flat(settings).items():
        if key.rpartition(".")[2] == TRUST and value and f"{key.lower()}=true" not in asked:
            raise UserError(
                f"{key}={value} comes from a file: code of a model runs only if the command line says {key}=true, or "
                "--trust-remote-code to export"
            )


def check_arguments(key: str, node: dict[str, Any]) -> None:
    """Refuse arguments that the node's target does not take, lacks, or takes as another type.

    Raises:
        UserError: Names the key and what would be right.
    """
    target = resolved(key, node["_target_"])
    arguments = {name: value for name, value in node.items() if name not in ("_target_", "_partial_")}
    parameters = inspect.signature(target).parameters
    for name in arguments:
        if name not in parameters:
            raise UserError(f"{key}.{name}: {node['_target_']} takes no {name!r}{nearest(name, set(parameters))}")
    if not node.get("_partial_"):
        for name, parameter in parameters.items():
            optional = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            if name not in arguments and parameter.default is parameter.empty and not optional:
                raise UserError(f"{key}.{name}: {node['_target_']} needs it; set {key}.{name}")
    hints = get_type_hints(target.__init__ if inspect.isclass(target) else target)
    for name, value in arguments.items():
        # What a target below makes is checked by whoever takes it.
        if name in hints and not any(True for _ in targets(value, "")):
            _check_type(f"{key}.{name}", value, hints[name])


def _check_type(key: str, value: Any, hint: Any) -> None:
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

    try:
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
        converted = adapter.validate_python(value)
    except PydanticUserError:
        return  # a hint that pydantic has no opinion on
    except ValidationError as error:
        raise UserError(f"{key}={value}: {error.errors()[0]['msg']}") from error
    # pydantic reads numbers out of text, and whole ones out of 8.0; whoever takes them may not.
    if isinstance(converted, int | float) and isinstance(value, str):
        raise UserError(f"{key}={value!r} is text, and should be a number: leave the quotes out")
    if isinstance(converted, int) and isinstance(value, float):
        raise UserError(f"{key}={value} should be a whole number: write {converted}")


def nearest(name: str, names: Collection[str]) -> str:
    """What may have been meant, or what there is.

    >>> nearest("bta", {"beta", "label_smoothing"})
    '; did you mean beta?'
    """
    match = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {match[0]}?" if match else f"; it takes {', '.join(sorted(names))}"
