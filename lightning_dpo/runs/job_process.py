"""A job of a sweep as a separate program, for Lightning strategies that start the program once per device."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lightning_dpo.errors import UserError
from lightning_dpo.runs.ranks import started_by_others
from lightning_dpo.runs.settings_files import quoted, search_path, task_overrides
from lightning_dpo.runs.state import RunState, failure, final_metrics, record_failure, run_state
from lightning_dpo.training.stop_signals import handling, stop


def needs_processes(config: DictConfig) -> bool:
    """Whether Lightning would start this program again per device, which would restart the whole sweep."""
    several = config.trainer.devices not in (1, "1") or config.trainer.num_nodes != 1
    return several and not started_by_others()


def objective(config: DictConfig) -> float:
    """The metric `sweep_objective` of a finished job; NaN if it is missing."""
    value = final_metrics(Path(config.run_folder)).get(config.sweep_objective)
    return float("nan") if value is None else float(value)


def run_separately(config: DictConfig) -> float:
    """Run the job as a separate program, which can start itself again for each device.

    Raises:
        UserError: It failed; the message is the one in `error.txt`.
    """
    folder = Path(config.run_folder)
    command = own_command(config, cast(DictConfig, HydraConfig.get()))
    with _ended_with_this_program(subprocess.Popen(command, start_new_session=True)) as process:  # noqa: S603
        status = process.wait()
    state = run_state(folder)
    if state is RunState.FINISHED:
        return objective(config)
    if state not in (RunState.FAILED, RunState.CRASHED):
        record_failure(folder, ChildProcessError(f"the job ended with exit status {status}; see train.log"))
    raise UserError(failure(folder))


def own_command(config: DictConfig, hydra: DictConfig) -> list[str]:
    """The command that runs one job of a sweep.

    Args:
        config: Config of the job.
        hydra: Hydra's own config in the sweep, for the overrides of the job and additional config folders.
    """
    replaced = ("sweep_folder", "ckpt_path")
    task = [override for override in task_overrides(hydra) if override.lstrip("+~").partition("=")[0] not in replaced]
    resumed = [] if config.ckpt_path is None else [f"ckpt_path={config.ckpt_path}"]
    single = ["hydra.mode=RUN", f"hydra.run.dir={quoted(str(config.run_folder))}"]
    name = ["--config-name", hydra.job.config_name] if hydra.job.config_name != "train" else []
    return [sys.executable, "-m", "lightning_dpo.train", *name, *task, *resumed, *search_path(hydra), *single]


@contextmanager
def _ended_with_this_program(process: subprocess.Popen) -> Iterator[subprocess.Popen]:
    """Context after which `process` has ended, however this program ends, except by SIGKILL."""
    try:
        with handling(stop):
            yield process
    finally:
        if process.poll() is None:
            # The whole process group, as Ctrl-C does: a single process would wait for the others.
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
