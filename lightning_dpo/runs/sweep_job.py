"""One job of a sweep: skipped if it is finished, resumed if it was interrupted, recorded if it fails."""

import gc
import hashlib
import logging
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lightning_dpo.errors import UserError
from lightning_dpo.run_folder import RunFolder, earlier_checkpoints, sweep_config, write_atomically
from lightning_dpo.runs.job_process import needs_processes, objective, run_separately
from lightning_dpo.runs.ranks import after_the_first, done_by_all, process_rank, report_done
from lightning_dpo.runs.settings_files import as_dict, check_same_settings, note_settings
from lightning_dpo.runs.state import (
    RunState,
    claimed,
    failure,
    record_failure,
    run_state,
    saved,
    set_aside,
)

log = logging.getLogger(__name__)

Report = Callable[[Path], Sequence[Path]]
"""Writes the report of a sweep and returns the written files."""

# Set before the first job: the swept keys, and all overrides of the sweep.
SWEPT_VARIABLE, OVERRIDES_VARIABLE = "LIGHTNING_DPO_SWEPT", "LIGHTNING_DPO_SWEEP"
_LONGEST_NAME = 80
_PATIENCE = timedelta(minutes=2)


def job_folder(sweep: str, number: int, overrides: Sequence[str]) -> str:
    """Name of a job's folder: its number and its swept values, without characters that are invalid in paths.

    If `sweep` already has a folder for these values, its name: a longer list of values changes the numbers of jobs.

    >>> os.environ[SWEPT_VARIABLE] = "loss.beta,model.name"
    >>> job_folder("outputs/none", 3, ["data=hh", "loss.beta=0.1", "model.name=org/small"])
    '3_beta-0.1_name-small-5e028c'
    """
    swept = os.environ.get(SWEPT_VARIABLE, "").split(",")
    parts = (override.lstrip("+~").partition("=") for override in overrides)
    whole = [(key.rpartition(".")[2], value) for key, _, value in parts if key in swept]
    # Only the last component of a path or hub id.
    short = "_".join(f"{key}-{value.rpartition('/')[2]}" for key, value in whole)
    short = re.sub(r"[^A-Za-z0-9._+-]+", "-", short).strip("-")[:_LONGEST_NAME]
    if short != "_".join(map("-".join, whole)):
        # Two jobs may differ only in the removed parts.
        short += f"-{hashlib.sha256(repr(whole).encode()).hexdigest()[:6]}"
    if not short:
        return str(number)
    begun = sorted(path.name for path in Path(sweep).glob(f"*_{short}") if RunFolder(path).config.exists())
    same = [name for name in begun if re.fullmatch(rf"\d+_{re.escape(short)}", name)]
    return f"{number}_{short}" if f"{number}_{short}" in same or not same else same[0]


def run_in_sweep(train: Callable[[DictConfig], float], report: Report, config: DictConfig) -> float:
    """Run a job of a sweep, unless it is finished.

    Args:
        train: Executes a run.
        report: Writes the sweep's report, after every job.
        config: Config of the job.

    Returns:
        The metric `sweep_objective`.

    Raises:
        UserError: It failed; the reason is in its `error.txt`.
        SystemExit: It failed only on this device, so the sweep cannot continue with the others.
    """
    folder, first, skipped = Path(config.run_folder), process_rank() == 0, False
    if first:
        _note_sweep(folder.parent)
    try:
        with claimed(folder) if first else nullcontext():
            if skipped := _is_finished(config, folder):
                return objective(config)
            # The first rank may move files of an earlier attempt away, so the others must wait before they write any.
            after_the_first(f"ready {folder}")
            try:
                _ready(config, folder)
            finally:  # if the first rank rejects the job, the others must reject it too, instead of waiting
                report_done(f"ready {folder}")
            value = None if needs_processes(config) else _attempted(train, config, folder)
        # Outside the lock, because the separate program locks the folder itself.
        if needs_processes(config):
            value = _attempted(run_separately, config, folder)
    finally:
        # Outside the lock, with which a job counts as running.
        # A skipped job changes nothing, unless the sweep was killed before it could write a report.
        sweep = RunFolder(folder).sweep if first else None
        if sweep and not (skipped and RunFolder(sweep).report.exists()):
            _report(sweep, report)
    if value is not None:
        return value
    if not done_by_all(str(folder), _PATIENCE):
        log.error("The job failed only on this device, so the sweep ends: %s", failure(folder))
        raise SystemExit(1)
    again = f"to repeat failed jobs, start the sweep again with sweep_folder={folder.parent}"
    raise UserError(f"{folder} failed: {failure(folder)} ({again})")


def _note_sweep(sweep: Path) -> None:
    """Write what the report needs of Hydra's config. Hydra's own sweeper writes the file, and others do not."""
    if sweep_config(sweep).exists() or not HydraConfig.initialized():
        return
    overrides = {"hydra": [], "task": shlex.split(os.environ.get(OVERRIDES_VARIABLE, ""))}
    sources = as_dict(cast(DictConfig, HydraConfig.get()).runtime)["config_sources"]
    hydra = {"overrides": overrides, "runtime": {"config_sources": sources}}
    write_atomically(sweep_config(sweep), OmegaConf.to_yaml(OmegaConf.create({"hydra": hydra})))


def _is_finished(config: DictConfig, folder: Path) -> bool:
    if run_state(folder) is not RunState.FINISHED:
        return False
    check_same_settings(config, folder)
    log.info("The job in %s is finished and is skipped.", folder)
    return True


def _ready(config: DictConfig, folder: Path) -> None:
    """Resume from a checkpoint if there is one; otherwise restart.

    Only the first rank moves files. The state that the others read afterwards leads to the same decision.
    """
    state = run_state(folder)
    if state in (RunState.INTERRUPTED, RunState.CRASHED) and earlier_checkpoints(RunFolder(folder).checkpoints):
        check_same_settings(config, folder)
        log.info("The job in %s is %s and resumes from its last checkpoint.", folder, state)
        config.ckpt_path = "last"
        if process_rank() == 0:
            RunFolder(folder).error.unlink(missing_ok=True)
        return
    if state is not RunState.NEW and process_rank() == 0:
        log.info("The job in %s is %s and restarts.", folder, state)
        set_aside(folder)
    note_settings(config)


def _attempted(run: Callable[[DictConfig], float], config: DictConfig, folder: Path) -> float | None:
    """Run the job; None if it failed. The error is recorded and not kept, because its frames reference the model."""
    try:
        value = run(config)
        report_done(str(folder))
        return value
    except Exception as error:
        if run is not run_separately:  # which writes its own record
            record_failure(folder, error)
        return None
    except BaseException as stop:  # a signal: the sweep ends with the job
        stop.add_note(f"{saved(folder)}; resume the sweep with sweep_folder={folder.parent}")
        raise
    finally:
        _free_memory()


def _report(sweep: Path, report: Report) -> None:
    try:
        log.info("Report of the sweep: %s.", report(sweep)[1])
    except Exception:  # an error in the report must not fail the job
        log.exception("The report of %s could not be written.", sweep)


def _free_memory() -> None:
    gc.collect()
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        sys.modules["torch"].cuda.empty_cache()
