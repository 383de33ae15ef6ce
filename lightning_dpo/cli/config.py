"""Where configs are, and the resolvers that they use: where and when a run writes, on which rank."""

import re
from collections.abc import Callable
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lightning_dpo.errors import UserError
from lightning_dpo.run_folder import RunFolder
from lightning_dpo.runs.ranks import process_rank, start_time
from lightning_dpo.runs.sweep_job import job_folder

PACKAGE = Path(__file__).parents[1]
ROOT = PACKAGE if (PACKAGE / "conf").is_dir() else PACKAGE.parent  # an installed wheel, or a checkout
CONFIG_DIR = ROOT / "conf"


def register_folders(names_only: bool = False) -> None:
    """Register every file of experiments/ and sweeps/ as an option of the groups `experiment` and `sweep`.

    Args:
        names_only: Register empty options, for `--help`: Hydra copies the whole store for each line of it.
    """
    for group in ("experiment", "sweep"):
        for file in sorted((ROOT / f"{group}s").glob("*.yaml")):
            node = OmegaConf.create() if names_only else OmegaConf.load(file)
            ConfigStore.instance().store(group=group, name=file.stem, node=node, package="_global_")


def register_resolvers() -> None:
    """Register the functions that YAML files call as `${name:arguments}`."""
    # Their value must not change during a run, whenever the config is resolved again.
    constant: dict[str, Callable[..., object]] = {
        "run_folder": run_folder,
        "sweep_folder": sweep_folder,
        "start_time": start_time,
    }
    for name, function in constant.items():
        OmegaConf.register_new_resolver(name, function, replace=True, use_cache=True)
    others: dict[str, Callable[..., object]] = {
        "job_folder": job_folder,
        "choice": _choice,
        "first_rank_only": _first_rank_only,
        "with_rank": _with_rank,
    }
    for name, function in others.items():
        OmegaConf.register_new_resolver(name, function, replace=True)


# OmegaConf passes the whole config as `_root_`. Such resolvers cannot be cached.
def _choice(group: str, *, _root_: DictConfig) -> str:
    """The chosen option of a group. `${hydra:runtime.choices}` is not set yet when Hydra creates a sweep's folder."""
    hydra = _root_.get("hydra") or HydraConfig.get()
    return hydra.runtime.choices[group]


def _first_rank_only(value: str) -> str | None:
    return None if process_rank() else value


def _with_rank(name: str) -> str:
    return f"{name}_rank{process_rank()}" if process_rank() else name


def run_folder(run_name: str, now: str, ckpt_path: str | None, root: str = "outputs") -> str:
    """A new folder; with `ckpt_path=last`, the newest unfinished folder of this name that has a checkpoint.

    Raises:
        UserError: The name is not a valid folder name, or no run can be resumed.
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
            "leave out ckpt_path to start a new one"
        )
    return str(unfinished[-1])


def sweep_folder(given: str | None, run_name: str, now: str) -> str:
    """The folder of a sweep: `given`, or a new one."""
    return given or run_folder(run_name, now, None)
