"""One job of a sweep: skipped where it is finished, gone on with where it was interrupted, recorded where it fails."""

import gc
import hashlib
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lightning_dpo.errors import UserError
from lightning_dpo.launch import process_rank, started_by_others
from lightning_dpo.run_state import (
    CONFIG,
    LAST,
    RunState,
    failure,
    final_metrics,
    record_failure,
    run_state,
    set_aside,
    sweep_of,
)  # fmt: skip
from lightning_dpo.settings import flat, without_secrets

log = logging.getLogger(__name__)

SWEPT_VARIABLE = "LIGHTNING_DPO_SWEPT"
_LONGEST_NAME = 80
_OF_THE_ATTEMPT = {"run_folder", "ckpt_path", "sweep_folder"}


def job_folder(number: int, overrides: Sequence[str]) -> str:
    """Name of a job's folder: its number and the values that are swept over, without what a path must not have.

    >>> os.environ[SWEPT_VARIABLE] = "loss.beta,model.name"
    >>> job_folder(3, ["data=hh", "loss.beta=0.1", "model.name=org/small"])
    '3_beta-0.1_name-small'
    """
    swept = os.environ.get(SWEPT_VARIABLE, "").split(",")
    parts = (override.lstrip("+~").partition("=") for override in overrides)
    # Of a path or a hub id, what it ends with.
    values = "_".join(f"{key.rpartition('.')[2]}-{value.rpartition('/')[2]}" for key, _, value in parts if key in swept)
    short = re.sub(r"[^A-Za-z0-9._-]+", "-", values).strip("-")
    if len(short) > _LONGEST_NAME:
        short = f"{short[:_LONGEST_NAME]}-{hashlib.sha256(values.encode()).hexdigest()[:6]}"
    return f"{number}_{short}" if short else str(number)


def run_in_sweep(train: Callable[[DictConfig], float], config: DictConfig) -> float:
    """Do the job that Hydra gives, or find that it is done.

    Args:
        train: Does a run.
        config: The job's.

    Returns:
        The metric that `sweep_objective` names.

    Raises:
        UserError: It failed; why stands in its `error.txt`.
    """
    from lightning_dpo.report import report

    folder = Path(config.run_folder)
    state = run_state(folder)
    if state is RunState.FINISHED:
        _check_same_settings(config, folder)
        log.info("%s is finished; skipped.", folder)
        return float(final_metrics(folder).get(config.sweep_objective, float("nan")))
    if state is RunState.INTERRUPTED and (folder / LAST).exists():
        log.info("%s was interrupted; it goes on from its last checkpoint.", folder)
        config.ckpt_path = "last"
    elif state is not RunState.NEW and process_rank() == 0:
        log.info("%s was begun and is %s; it begins anew.", folder, state)
        set_aside(folder)
    try:
        return _in_processes_of_its_own(config) if _needs_processes(config) else train(config)
    except Exception as error:
        if not (folder / "error.txt").exists() or not isinstance(error, UserError):
            record_failure(folder, error, process_rank())
    finally:
        _free_memory()
        if process_rank() == 0 and (sweep := sweep_of(folder)):
            report(sweep)
    # Outside the handler: what it caught holds the model in its frames.
    again = f"given again with sweep_folder={folder.parent}, the sweep does what failed"
    raise UserError(f"{folder} failed: {failure(folder)} ({again})")


def _check_same_settings(config: DictConfig, folder: Path) -> None:
    """Refuse to take a finished job of other settings for this one.

    Raises:
        UserError: Names the settings.
    """
    done = OmegaConf.to_container(OmegaConf.load(folder / CONFIG))
    now, before = flat(without_secrets(OmegaConf.to_container(config, resolve=True))), flat(done)
    names = [name for name in sorted(now.keys() | before.keys()) if now.get(name) != before.get(name)]
    names = [name for name in names if name.partition(".")[0] not in _OF_THE_ATTEMPT]
    if names:
        # Hydra has written the new settings over those of the finished job by now.
        OmegaConf.save(OmegaConf.create(done), folder / ".hydra" / "config.yaml")
        changed = ", ".join(f"{name} was {before.get(name)} and is {now.get(name)}" for name in names[:5])
        raise UserError(f"{folder} holds a finished job of other settings: {changed}; give another sweep_folder")


def _needs_processes(config: DictConfig) -> bool:
    """Whether Lightning would start this program again for every device: in a sweep, it would start all of it again."""
    several = config.trainer.devices not in (1, "1") or config.trainer.num_nodes != 1
    return several and not started_by_others()


def _in_processes_of_its_own(config: DictConfig) -> float:
    """Run the job as a program of its own, which may start itself again for every device, and may be killed alone.

    Raises:
        UserError: It failed; it may have said why in `error.txt`.
    """
    folder = Path(config.run_folder)
    with _terminating(subprocess.Popen(own_command(config, HydraConfig.get().overrides.task, sys.argv[1:]))) as process:  # noqa: S603
        status = process.wait()
    if run_state(folder) is not RunState.FINISHED:
        if run_state(folder) is not RunState.FAILED:
            record_failure(folder, UserError(f"its processes ended with exit status {status}; see train.log"), 0)
        raise UserError(failure(folder))
    return float(final_metrics(folder).get(config.sweep_objective, float("nan")))


def own_command(config: DictConfig, overrides: Sequence[str], arguments: Sequence[str]) -> list[str]:
    """The command of one job alone.

    Args:
        config: The job's.
        overrides: The job's, as Hydra noted them.
        arguments: Of the sweep's own command, for its --config-dir.
    """
    given = get_args_parser().parse_known_args(list(arguments))[0].config_dir
    folders = ["--config-dir", os.path.abspath(given)] if given else []
    left_out = ("sweep_folder", "ckpt_path")
    task = [override for override in overrides if override.lstrip("+~").partition("=")[0] not in left_out]
    resumed = [] if config.ckpt_path is None else [f"ckpt_path={config.ckpt_path}"]
    alone = ["hydra.mode=RUN", f"hydra.run.dir='{config.run_folder}'"]
    return [sys.executable, "-m", "lightning_dpo.train", *folders, *task, *resumed, *alone]


@contextmanager
def _terminating(process: subprocess.Popen) -> Iterator[subprocess.Popen]:
    """Whatever ends this program ends `process`, too."""

    def stop(*_: Any) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield process
    finally:
        signal.signal(signal.SIGTERM, before)
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def _free_memory() -> None:
    gc.collect()
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        sys.modules["torch"].cuda.empty_cache()
