"""What a run notes of its settings when it begins, and whether those of a run that is there are the same."""

import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from lightning_dpo.errors import UserError
from lightning_dpo.run_folder import RunFolder, begun_runs, sweep_config, write_whole
from lightning_dpo.runs.ranks import process_rank
from lightning_dpo.runs.state import RunState, run_state
from lightning_dpo.settings import compared, flat, without_secrets

# Change memory or speed, and no number; a run in progress has counted its steps by the first.
_NO_RESULT = ("data.batch_size", "data.max_tokens", "data.num_workers")


def note_settings(config: DictConfig) -> None:
    """Write `config.yaml` and `command.txt`: with them, the run has begun."""
    if process_rank() == 0:
        folder = RunFolder(config.run_folder)
        folder.path.mkdir(parents=True, exist_ok=True)
        write_whole(folder.command, shlex.join(["python", "-m", "lightning_dpo.train", *task_overrides()]) + "\n")
        settings = without_secrets(as_dict(config))
        write_whole(folder.config, OmegaConf.to_yaml(OmegaConf.create(settings)))


def as_dict(config: DictConfig | ListConfig, resolve: bool = False) -> dict[str, Any]:
    """A config as plain values; `resolve`: each interpolation as what it refers to."""
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=resolve))


def loaded(path: Path) -> DictConfig:
    """The config in a YAML file."""
    return cast(DictConfig, OmegaConf.load(path))


def task_overrides(hydra: DictConfig | None = None) -> list[str]:
    """What the command line set, as it was typed: read as a config, `${oc.env:HF_TOKEN}` would become the secret.

    Args:
        hydra: Hydra's own config; None: that of this job, if there is one.
    """
    if hydra is None and not HydraConfig.initialized():
        return []
    own = hydra or cast(DictConfig, HydraConfig.get())
    return list(cast(list[str], OmegaConf.to_container(own.overrides.task, resolve=False)))


def resolved_settings(config: DictConfig) -> dict[str, Any]:
    """The values of a config as they may be written down and published: no secrets, nothing from the environment.

    What refers to the environment keeps its text, `${oc.env:NAME}`.
    """
    with _environment_unread():
        return cast(dict[str, Any], without_secrets(as_dict(config, resolve=True)))


@contextmanager
def _environment_unread() -> Iterator[None]:
    OmegaConf.register_new_resolver("oc.env", lambda name, *_: f"${{oc.env:{name}}}", replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def check_same_settings(config: DictConfig, folder: Path, swept: Sequence[str] = ()) -> None:
    """Refuse to take the run in `folder` for one of other settings.

    Args:
        config: The settings.
        folder: Of a run that has begun.
        swept: Settings that may differ.

    Raises:
        UserError: Names what differs.
    """
    noted = loaded(RunFolder(folder).config)
    now, before = (flat(compared(without_secrets(as_dict(one)))) for one in (config, noted))
    ignored = _NO_RESULT if run_state(folder) is RunState.FINISHED else _NO_RESULT[1:]
    names = [name for name in sorted(now.keys() | before.keys()) if now.get(name) != before.get(name)]
    names = [name for name in names if name not in (*ignored, *swept)]
    if names:
        changed = ", ".join(f"{name} was {shown(noted, name)} and is {shown(config, name)}" for name in names[:5])
        raise UserError(f"{folder} holds a job of other settings: {changed}; give another sweep_folder")


def check_sweep(config: DictConfig, swept: Sequence[str]) -> None:
    """Refuse a sweep, before its first job, in a folder that is none of its own.

    Args:
        config: What its jobs share.
        swept: The settings that it sweeps over.

    Raises:
        UserError: Says what the folder is, or which settings its jobs do not share.
    """
    if config.ckpt_path is not None:
        raise UserError("ckpt_path has no effect in a sweep: its jobs go on by sweep_folder=outputs/NAME/TIME")
    if config.sweep_folder is None:
        return
    folder = Path(config.sweep_folder)
    if RunFolder(folder).config.exists():
        raise UserError(f"sweep_folder={folder} is the folder of a single run: that one goes on by ckpt_path=last")
    foreign = folder.is_dir() and any(folder.iterdir()) and not sweep_config(folder).exists()
    if foreign or (folder.exists() and not folder.is_dir()):
        raise UserError(f"sweep_folder={folder} is no folder of a sweep: give that of one, outputs/NAME/TIME, or none")
    # A group that is swept over brings settings of its own; its jobs are compared one by one.
    if not any(OmegaConf.is_dict(OmegaConf.select(config, key)) for key in swept):
        for job in _begun(folder):
            check_same_settings(config, job, swept)


def _begun(sweep: Path) -> Iterable[Path]:
    states = (RunState.FINISHED, RunState.INTERRUPTED, RunState.CRASHED)
    return (run.path for run in begun_runs(sweep) if run.config.exists() and run_state(run.path) in states)


def shown(settings: DictConfig, name: str) -> object:
    """The value of a dotted key, what it refers to resolved where that can be; nothing from the environment."""
    try:
        with _environment_unread():
            return OmegaConf.select(settings, name)
    except OmegaConfBaseException:  # it is made of what this config does not have
        return flat(as_dict(settings)).get(name)
