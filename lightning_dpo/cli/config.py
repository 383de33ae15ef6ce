"""Where configs are, and the resolvers that they use: where and when a run writes, on which rank."""

import re
from collections.abc import Callable
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lightning_dpo.errors import UserError
from lightning_dpo.run_folder import LAST, LAST_IF_ANY, RunFolder, earlier_checkpoints
from lightning_dpo.runs.ranks import new_folder, process_rank
from lightning_dpo.runs.settings_files import as_dict
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
            if "@package" not in file.read_text(encoding="utf-8"):  # sweeps/wandb.yaml is for wandb, not for Hydra
                continue
            node = OmegaConf.create() if names_only else OmegaConf.load(file)
            ConfigStore.instance().store(group=group, name=file.stem, node=node, package="_global_")


def register_resolvers() -> None:
    """Register the functions that YAML files call as `${name:arguments}`."""
    # Their value must not change during a run, whenever the config is resolved again.
    constant: dict[str, Callable[..., object]] = {
        "run_folder": run_folder,
        "sweep_folder": sweep_folder,
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


def run_folder(run_name: str, ckpt_path: str | None, root: str = "outputs") -> str:
    """A new folder, which is created; with `ckpt_path=last` or `last_if_any`, the newest unfinished one of this name.

    Raises:
        UserError: The name is not a valid folder name, or no run can be resumed.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", run_name):
        raise UserError(f"run_name={run_name}: use letters, digits, dots, dashes and underscores, at most 100")
    parent = Path(root, run_name)
    if ckpt_path in (LAST, LAST_IF_ANY):
        found = {folder: earlier_checkpoints(folder.checkpoints) for folder in map(RunFolder, parent.glob("*"))}
        saved = {folder: files[0].stat().st_mtime_ns for folder, files in found.items() if files}
        unfinished = [folder for folder in saved if not folder.metrics.exists()]
        if unfinished:
            return str(max(unfinished, key=lambda folder: (saved[folder], folder.path)).path)
        if ckpt_path == LAST:
            raise UserError(
                f"ckpt_path=last: {parent} has no unfinished run with a checkpoint ({len(saved)} finished); leave out "
                "ckpt_path to start a new one"
            )
    return str(new_folder(parent))


def with_folder(config: DictConfig) -> DictConfig:
    """The config with an output folder. Without the command, as in a notebook, Hydra does not create one."""
    if HydraConfig.initialized() or as_dict(config)["run_folder"] != "${hydra:runtime.output_dir}":
        return config
    config = config.copy()
    config.run_folder = run_folder(config.run_name, config.ckpt_path)
    if config.ckpt_path == LAST_IF_ANY:
        config.ckpt_path = LAST if earlier_checkpoints(RunFolder(config.run_folder).checkpoints) else None
    return config


def sweep_folder(given: str | None, run_name: str) -> str:
    """The folder of a sweep: `given`, or a new one."""
    return given or run_folder(run_name, None)
