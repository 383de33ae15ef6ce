"""The settings files of a run, and their comparison with the settings of another run."""

import logging
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
from lightning_dpo.run_folder import RunFolder, started_runs, sweep_config, write_atomically
from lightning_dpo.runs.ranks import process_rank
from lightning_dpo.runs.state import RunState, run_state
from lightning_dpo.settings import compared, flat, without_secrets

log = logging.getLogger(__name__)

# These affect only memory and speed. An unfinished run depends on the first, which determines its micro-batches.
_NO_RESULT = ("data.batch_size", "data.max_tokens", "data.num_workers")


def note_settings(config: DictConfig) -> None:
    """Write `config.yaml` and `command.txt`. A folder with these files counts as a started run."""
    if process_rank() == 0:
        folder = RunFolder(config.run_folder)
        folder.path.mkdir(parents=True, exist_ok=True)
        if HydraConfig.initialized():  # not in a notebook
            overrides = task_overrides()
            # The option of a sweep may contain settings, and would start another sweep.
            single = ["hydra.mode=RUN"] if any(one.startswith("sweep=") for one in overrides) else []
            command = ["python", "-m", "lightning_dpo.train", *search_path(), *single, *overrides]
            write_atomically(folder.command, shlex.join(command) + "\n")
        settings = without_secrets(as_dict(config))
        write_atomically(folder.config, OmegaConf.to_yaml(OmegaConf.create(settings)))


def as_dict(config: DictConfig | ListConfig, resolve: bool = False) -> dict[str, Any]:
    """A config as plain values; with `resolve`, interpolations are replaced by their values."""
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=resolve))


def loaded(path: Path) -> DictConfig:
    """The config in a YAML file."""
    return cast(DictConfig, OmegaConf.load(path))


def task_overrides(hydra: DictConfig | None = None) -> list[str]:
    """The overrides on the command line as text. Resolved, `${oc.env:HF_TOKEN}` would become the secret.

    Args:
        hydra: Hydra's own config; None: that of this job, if there is one.
    """
    if hydra is None and not HydraConfig.initialized():
        return []
    own = hydra or cast(DictConfig, HydraConfig.get())
    return list(cast(list[str], OmegaConf.to_container(own.overrides.task, resolve=False)))


def search_path(hydra: DictConfig | None = None) -> list[str]:
    """The override that adds the user's config folders, from `--config-dir` or `hydra.searchpath`; empty if none.

    Args:
        hydra: Hydra's own config; None: that of this job, if there is one.
    """
    if hydra is None and not HydraConfig.initialized():
        return []
    sources = (hydra or cast(DictConfig, HydraConfig.get())).runtime.config_sources
    folders = [f"file://{source.path}" for source in sources if source.schema == "file" and source.provider != "main"]
    return [f"hydra.searchpath=[{','.join(map(quoted, folders))}]"] if folders else []


def quoted(value: str) -> str:
    """A value, quoted according to Hydra's grammar."""
    escaped = value.replace('"', '\\"')
    return f'"{escaped}"'


def resolved_settings(config: DictConfig) -> dict[str, Any]:
    """The values of a config for files and loggers, without secrets.

    References to the environment are not resolved: `${oc.env:NAME}` stays as it is.
    """
    with _unresolved_environment():
        return cast(dict[str, Any], without_secrets(as_dict(config, resolve=True)))


@contextmanager
def _unresolved_environment() -> Iterator[None]:
    OmegaConf.register_new_resolver("oc.env", lambda name, *_: f"${{oc.env:{name}}}", replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def check_same_settings(config: DictConfig, folder: Path, swept: Sequence[str] = ()) -> None:
    """Check that the run in `folder` has the same settings.

    Args:
        config: The settings.
        folder: Folder of a started run.
        swept: Settings that may differ.

    Raises:
        UserError: They differ; the message contains the difference.
    """
    saved = loaded(RunFolder(folder).config)
    now, before = (flat(compared(without_secrets(as_dict(one)))) for one in (config, saved))
    ignored = _NO_RESULT if run_state(folder) is RunState.FINISHED else _NO_RESULT[1:]
    names = [name for name in sorted(now.keys() | before.keys()) if now.get(name) != before.get(name)]
    names = [name for name in names if name not in (*ignored, *swept)]
    if names:
        changed = ", ".join(f"{name} was {shown(saved, name)} and is {shown(config, name)}" for name in names[:5])
        raise UserError(f"{folder} contains a job with other settings: {changed}; use another sweep_folder")


def check_sweep(config: DictConfig, swept: Sequence[str]) -> None:
    """Check before the first job that the folder of a sweep belongs to it.

    Args:
        config: The settings that all jobs share.
        swept: The swept settings.

    Raises:
        UserError: The folder is something else, or its jobs have other settings.
    """
    if config.ckpt_path is not None:
        raise UserError("ckpt_path has no effect in a sweep: to resume it, set sweep_folder=outputs/NAME/TIME")
    if config.sweep_folder is None:
        return
    folder = Path(config.sweep_folder)
    if not folder.exists():
        log.warning("sweep_folder=%s does not exist, so a new sweep starts there.", folder)
    if RunFolder(folder).config.exists():
        raise UserError(f"sweep_folder={folder} is the folder of a single run: to resume it, set ckpt_path=last")
    foreign = folder.is_dir() and any(folder.iterdir()) and not sweep_config(folder).exists()
    if foreign or (folder.exists() and not folder.is_dir()):
        raise UserError(
            f"sweep_folder={folder} is not the folder of a sweep: set it to outputs/NAME/TIME, or leave it out"
        )
    # A swept group changes other settings too, so such jobs are compared later, one by one.
    if not any(OmegaConf.is_dict(OmegaConf.select(config, key)) for key in swept):
        for job in _started(folder):
            check_same_settings(config, job, swept)


def _started(sweep: Path) -> Iterable[Path]:
    states = (RunState.FINISHED, RunState.INTERRUPTED, RunState.CRASHED)
    return (run.path for run in started_runs(sweep) if run.config.exists() and run_state(run.path) in states)


def shown(settings: DictConfig, name: str) -> object:
    """The value of a dotted key, resolved if possible, without values from the environment."""
    try:
        with _unresolved_environment():
            return OmegaConf.select(settings, name)
    except OmegaConfBaseException:  # it refers to something that this config does not have
        return flat(as_dict(settings)).get(name)
