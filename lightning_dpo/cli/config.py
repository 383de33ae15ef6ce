"""Where the configuration lives, where a run writes, and how objects are built from a config."""

import functools
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, cast

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from lightning_dpo.cli.targets import check_arguments, check_name, nearest, resolved, targets
from lightning_dpo.errors import UserError
from lightning_dpo.run_folder import RunFolder
from lightning_dpo.runs.ranks import process_rank, start_time
from lightning_dpo.runs.sweep_job import job_folder

PACKAGE = Path(__file__).parents[1]
ROOT = PACKAGE if (PACKAGE / "conf").is_dir() else PACKAGE.parent  # an installed wheel, or a checkout
CONFIG_DIR = ROOT / "conf"

Resolvers = dict[str, Callable[..., object]]

_OPTIONAL = ("suggested", "callbacks", "profile")


def register_folders(names_alone: bool = False) -> None:
    """Offer every file of experiments/ and sweeps/ as an option of the groups `experiment` and `sweep`.

    Args:
        names_alone: Without what is in them, for a list of options: Hydra copies all of it for each line of `--help`.
    """
    for group in ("experiment", "sweep"):
        for file in sorted((ROOT / f"{group}s").glob("*.yaml")):
            node = OmegaConf.create() if names_alone else OmegaConf.load(file)
            ConfigStore.instance().store(group=group, name=file.stem, node=node, package="_global_")


def register_resolvers() -> None:
    """What a config may ask: where and when a run writes, which option of a group it has, what rank this process is."""
    cached: dict[str, Callable[..., object]] = {
        "run_folder": run_folder,
        "sweep_folder": sweep_folder,
        "start_time": start_time,
    }
    for name, function in cached.items():
        OmegaConf.register_new_resolver(name, function, replace=True, use_cache=True)
    others: Resolvers = {
        "job_folder": job_folder,
        "choice": _choice,
        "first_rank_alone": _first_rank_alone,
        "of_rank": _of_rank,
    }
    for name, function in others.items():
        OmegaConf.register_new_resolver(name, function, replace=True)


def _choice(group: str, *, _root_: DictConfig) -> str:
    """Hydra's own `${hydra:runtime.choices}` knows no answer while the folder of a sweep is made."""
    hydra = _root_.get("hydra") or HydraConfig.get()
    return hydra.runtime.choices[group]


def _first_rank_alone(value: str) -> str | None:
    return None if process_rank() else value


def _of_rank(name: str) -> str:
    return f"{name}_rank{process_rank()}" if process_rank() else name


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
    saved = [folder for folder in map(RunFolder, parent.glob("*")) if folder.last.exists()]
    started = sorted(saved, key=lambda folder: (folder.last.stat().st_mtime_ns, folder.path))
    unfinished = [folder.path for folder in started if not folder.metrics.exists()]
    if not unfinished:
        raise UserError(
            f"ckpt_path=last: {parent} has no unfinished run with a checkpoint ({len(started)} finished); "
            "leave ckpt_path out to begin a new one"
        )
    return str(unfinished[-1])


def sweep_folder(given: str | None, run_name: str, now: str) -> str:
    """The folder of a sweep: the one that was given, or a new one."""
    return given or run_folder(run_name, now, None)


def check_names(config: DictConfig, keys: Collection[str]) -> None:
    """Refuse keys that no part of the program reads, keys that it lacks, and targets that it may not call.

    Nothing is imported for it.

    Args:
        config: The composed config.
        keys: The keys of its top.

    Raises:
        UserError: Names the key and what would be right.
    """
    for key in config:
        if key not in keys:
            raise UserError(f"{key!s} is no key of this program{nearest(str(key), keys)}")
    for key in keys:
        if key not in config and key not in _OPTIONAL:
            raise UserError(f"{key} is missing: choose one with {key}=..., as --help lists them")
    for key, node in targets(_plain(config), ""):
        check_name(key, node["_target_"])


def check_all_arguments(config: DictConfig) -> None:
    """Refuse arguments that a target does not take, lacks, or takes as another type, before any target is called.

    Raises:
        UserError: Names the key and what would be right.
    """
    nodes = sorted(targets(_plain(config), ""), key=lambda node: _import_cost(node[1]["_target_"]))
    for key, node in nodes:
        check_arguments(key, node)


def _import_cost(target: str) -> int:
    """A rank: what is imported sooner is told sooner. `lightning_dpo.` mostly imports transformers."""
    return next((cost for cost, prefix in enumerate(("torch.", "lightning.")) if target.startswith(prefix)), 2)


def build(config: DictConfig, key: str, **rest: Any) -> Any:
    """The object that `config[key]` describes; several, by name, where it holds several.

    Args:
        config: The whole config.
        key: Where the object stands.
        rest: Arguments that only the program has, for a node that is `_partial_`.

    Raises:
        UserError: Its constructor refuses a value, or the config sets what only the program has.
    """
    node = _plain(config)[key]
    if "_target_" not in node:
        return {name: _built(value, f"{key}.{name}") for name, value in node.items() if value is not None}
    for place, target in targets(node, key):
        check_arguments(place, target)
    for name in node.keys() & rest.keys():
        raise UserError(f"{key}.{name} follows from the rest of the config: leave it out")
    built = _built(node, key)
    return call(key, built, **rest) if rest else built


def call(key: str, target: Callable[..., Any], *args: Any, **arguments: Any) -> Any:
    """`target(*args, **arguments)`, whatever it refuses being told as a mistake at `key`.

    Raises:
        UserError: It refused.
    """
    try:
        return target(*args, **arguments)
    except UserError:
        raise
    # Libraries have exceptions of their own for wrong arguments; HYDRA_FULL_ERROR=1 shows where it came from.
    except Exception as error:
        raise UserError(f"{key}: {error}") from error


def _plain(config: DictConfig) -> dict[str, Any]:
    try:
        return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
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
    target = resolved(key, values.pop("_target_"))
    if values.pop("_partial_", False):
        return functools.partial(target, **values)
    return call(key, target, **values)
