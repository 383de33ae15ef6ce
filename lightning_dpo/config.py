"""Where the configuration lives, what it may name, and how objects are built from it."""

import difflib
import functools
import importlib
import inspect
import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from lightning_dpo.errors import UserError

log = logging.getLogger(__name__)

PACKAGE = Path(__file__).parent
ROOT = PACKAGE if (PACKAGE / "conf").is_dir() else PACKAGE.parent  # an installed wheel, or a checkout
CONFIG_DIR = ROOT / "conf"

# Everything that a config may name, besides this package. Names, not prefixes: `torch.hub.load` runs foreign code.
ALLOWED_TARGETS = frozenset(
    {
        "lightning.Trainer",
        *(f"torch.optim.{name}" for name in ("Adafactor", "Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "SGD")),
        *(
            f"lightning.pytorch.callbacks.{name}"
            for name in (
                "DeviceStatsMonitor", "EarlyStopping", "LearningRateMonitor", "ModelCheckpoint", "ModelSummary",
                "RichModelSummary", "RichProgressBar", "Timer", "TQDMProgressBar",
            )
        ),
        *(f"lightning.pytorch.loggers.{name}" for name in ("MLFlowLogger", "TensorBoardLogger")),
    }
)  # fmt: skip
OWN_TARGETS_VARIABLE = "LIGHTNING_DPO_TARGETS"


def register_folders() -> None:
    """Offer every file of experiments/ and sweeps/ as an option of the groups `experiment` and `sweep`."""
    for group in ("experiment", "sweep"):
        for file in sorted((ROOT / f"{group}s").glob("*.yaml")):
            ConfigStore.instance().store(group=group, name=file.stem, node=OmegaConf.load(file), package="_global_")


def register_run_folder() -> None:
    """Let `hydra.run.dir` ask where a run writes."""
    OmegaConf.register_new_resolver("run_folder", run_folder, replace=True, use_cache=True)


def run_folder(run_name: str, now: str, ckpt_path: str | None, root: str = "outputs") -> str:
    """A new folder, or with `ckpt_path=last` the newest of this name that has a checkpoint and did not finish.

    Raises:
        UserError: The name is no folder name, or there is nothing to continue.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", run_name):
        raise UserError(f"run_name={run_name}: use letters, digits, dots, dashes and underscores, at most 100")
    parent = Path(root, run_name)
    if ckpt_path != "last":
        return str(parent / now)
    started = sorted(path.parents[1] for path in parent.glob("*/checkpoints/last.ckpt"))
    unfinished = [folder for folder in started if not (folder / "metrics.json").exists()]
    if not unfinished:
        raise UserError(
            f"ckpt_path=last: {parent} has no unfinished run with a checkpoint ({len(started)} finished); "
            "leave ckpt_path out to begin a new one"
        )
    return str(unfinished[-1])


def check_names(config: DictConfig, keys: set[str]) -> None:
    """Refuse keys that no part of the program reads and targets that it may not call; nothing is imported for it.

    Args:
        config: The composed config.
        keys: The keys that its top may have.

    Raises:
        UserError: Names the key and what would be right.
    """
    for key in config:
        if key not in keys:
            raise UserError(f"{key} is no key of this program{_nearest(str(key), keys)}")
    for key, node in _targets(_plain(config), ""):
        _check_name(key, node["_target_"])


def check_arguments(config: DictConfig) -> None:
    """Refuse arguments that a target does not take, lacks, or takes as another type, before any target is called.

    Raises:
        UserError: Names the key and what would be right.
    """
    for key, node in _targets(_plain(config), ""):
        _check_arguments(key, node)


def build(config: DictConfig, key: str, **rest: Any) -> Any:
    """The object that `config[key]` describes; several, by name, where it holds several.

    Args:
        config: The whole config.
        key: Where the object stands.
        rest: Arguments that only the program has, for a node that is `_partial_`.

    Raises:
        UserError: Its constructor refuses a value.
    """
    node = _plain(config)[key]
    if "_target_" not in node:
        return {name: _built(value, f"{key}.{name}") for name, value in node.items() if value is not None}
    for place, target in _targets(node, key):
        _check_arguments(place, target)
    built = _built(node, key)
    return _called(built, rest, key) if rest else built


def _plain(config: DictConfig) -> dict[str, Any]:
    try:
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key} has no default: set it") from error


def _built(node: Any, key: str) -> Any:
    if isinstance(node, list):
        return [_built(value, f"{key}[{place}]") for place, value in enumerate(node)]
    if not isinstance(node, dict):
        return node
    values = {name: _built(value, f"{key}.{name}") for name, value in node.items()}
    if "_target_" not in node:
        return values
    target = _resolved(key, values.pop("_target_"))
    if values.pop("_partial_", False):
        return functools.partial(target, **values)
    return _called(target, values, key)


def _called(target: Callable[..., Any], arguments: dict[str, Any], key: str) -> Any:
    try:
        return target(**arguments)
    except UserError:
        raise
    except (ValueError, TypeError) as error:
        raise UserError(f"{key}: {error}") from error


def _targets(node: Any, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _targets(value, f"{key}.{name}".lstrip("."))
        if "_target_" in node:
            yield key, node
    elif isinstance(node, list):
        for place, value in enumerate(node):
            yield from _targets(value, f"{key}[{place}]")


def _check_name(key: str, target: Any) -> None:
    own = [prefix for prefix in os.environ.get(OWN_TARGETS_VARIABLE, "").split(",") if prefix]
    if target in ALLOWED_TARGETS or str(target).startswith("lightning_dpo."):
        return
    if any(prefix.endswith(".") and str(target).startswith(prefix) for prefix in own):
        log.info("%s: %s is allowed by %s.", key, target, OWN_TARGETS_VARIABLE)
        return
    raise UserError(
        f"{key}._target_={target} is not allowed: a config may name what lightning_dpo/config.py lists, and your own "
        f"package when the environment says {OWN_TARGETS_VARIABLE}=mypackage."
    )


@functools.cache
def _resolved(key: str, target: str) -> Any:
    """What `target` names; it must be defined in the package that its name begins with, not imported there."""
    _check_name(key, target)
    path, _, name = target.rpartition(".")
    try:
        value = getattr(importlib.import_module(path), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{key}._target_={target}: there is no such thing ({error})") from error
    if target not in ALLOWED_TARGETS and not value.__module__.startswith(target.split(".")[0]):
        raise UserError(f"{key}._target_={target} is {value.__module__}.{value.__qualname__}, which is not allowed")
    return value


def _check_arguments(key: str, node: dict[str, Any]) -> None:
    target = _resolved(key, node["_target_"])
    arguments = {name: value for name, value in node.items() if name not in ("_target_", "_partial_")}
    parameters = inspect.signature(target).parameters
    for name in arguments:
        if name not in parameters:
            raise UserError(f"{key}.{name}: {node['_target_']} takes no {name!r}{_nearest(name, set(parameters))}")
    if not node.get("_partial_"):
        for name, parameter in parameters.items():
            optional = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            if name not in arguments and parameter.default is parameter.empty and not optional:
                raise UserError(f"{key}.{name}: {node['_target_']} needs it; set {key}.{name}")
    hints = get_type_hints(target.__init__ if inspect.isclass(target) else target)
    for name, value in arguments.items():
        if name in hints and not _holds_target(value):
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
    # Text is no number, though pydantic would read one out of it.
    if isinstance(value, str) and isinstance(converted, int | float):
        raise UserError(f"{key}={value!r} is text, and should be a number: leave the quotes out")


def _holds_target(value: Any) -> bool:
    return any(True for _ in _targets(value, ""))


def _nearest(name: str, names: set[str]) -> str:
    match = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {match[0]}?" if match else f"; it takes {', '.join(sorted(names))}"
