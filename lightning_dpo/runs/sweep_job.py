"""One job of a sweep: skipped where it is finished, gone on with where it was interrupted, recorded where it fails."""

import gc
import hashlib
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

from omegaconf import DictConfig

from lightning_dpo.errors import UserError
from lightning_dpo.run_folder import RunFolder
from lightning_dpo.runs.job_process import needs_processes, objective, run_alone
from lightning_dpo.runs.ranks import after_the_first, done_by_all, process_rank, say_done
from lightning_dpo.runs.settings_files import check_same_settings, note_settings
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
"""Writes the report of a sweep's folder; returns the files that it wrote."""

SWEPT_VARIABLE = "LIGHTNING_DPO_SWEPT"
_LONGEST_NAME = 80
_PATIENCE = timedelta(minutes=2)


def job_folder(sweep: str, number: int, overrides: Sequence[str]) -> str:
    """Name of a job's folder: its number and the values that are swept over, without what a path must not have.

    Where `sweep` has a job of these values, that one's: in a longer list of values, a job may have another number.

    >>> os.environ[SWEPT_VARIABLE] = "loss.beta,model.name"
    >>> job_folder("outputs/none", 3, ["data=hh", "loss.beta=0.1", "model.name=org/small"])
    '3_beta-0.1_name-small-5e028c'
    """
    swept = os.environ.get(SWEPT_VARIABLE, "").split(",")
    parts = (override.lstrip("+~").partition("=") for override in overrides)
    whole = [(key.rpartition(".")[2], value) for key, _, value in parts if key in swept]
    # Of a path or a hub id, what it ends with.
    short = "_".join(f"{key}-{value.rpartition('/')[2]}" for key, value in whole)
    short = re.sub(r"[^A-Za-z0-9._-]+", "-", short).strip("-")[:_LONGEST_NAME]
    if short != "_".join(map("-".join, whole)):
        # What was left out may be all that tells two jobs apart.
        short += f"-{hashlib.sha256(repr(whole).encode()).hexdigest()[:6]}"
    if not short:
        return str(number)
    begun = sorted(path.name for path in Path(sweep).glob(f"*_{short}") if RunFolder(path).config.exists())
    same = [name for name in begun if re.fullmatch(rf"\d+_{re.escape(short)}", name)]
    return f"{number}_{short}" if f"{number}_{short}" in same or not same else same[0]


def run_in_sweep(train: Callable[[DictConfig], float], report: Report, config: DictConfig) -> float:
    """Do the job that Hydra gives, or find that it is done.

    Args:
        train: Does a run.
        report: Writes the sweep's report, after every job.
        config: The job's.

    Returns:
        The metric that `sweep_objective` names.

    Raises:
        UserError: It failed; why stands in its `error.txt`.
        SystemExit: It failed on this device alone: the sweep cannot go on with the others.
    """
    folder, first = Path(config.run_folder), process_rank() == 0
    with claimed(folder) if first else nullcontext():
        if _is_finished(config, folder):
            return objective(config)
        # What this one writes must not be taken by the first for what an earlier attempt left.
        after_the_first(f"ready {folder}")
        try:
            _ready(config, folder)
        finally:  # refused by the first, it is refused by the others as well, and they must come to it
            say_done(f"ready {folder}")
        value = None if needs_processes(config) else _attempted(train, config, folder, report)
    if needs_processes(config):
        value = _attempted(run_alone, config, folder, report)
    if value is not None:
        return value
    if not done_by_all(str(folder), _PATIENCE):
        log.error("The job failed on this device alone, so the sweep ends: %s", failure(folder))
        raise SystemExit(1)
    again = f"given again with sweep_folder={folder.parent}, the sweep does what failed"
    raise UserError(f"{folder} failed: {failure(folder)} ({again})")


def _is_finished(config: DictConfig, folder: Path) -> bool:
    if run_state(folder) is not RunState.FINISHED:
        return False
    check_same_settings(config, folder)
    log.info("%s is finished; skipped.", folder)
    return True


def _ready(config: DictConfig, folder: Path) -> None:
    """Go on where there is something to go on from; else begin anew.

    Only the first of several processes moves anything; whatever it has moved by then, the others decide as it did.
    """
    state = run_state(folder)
    if state in (RunState.INTERRUPTED, RunState.CRASHED) and RunFolder(folder).last.exists():
        check_same_settings(config, folder)
        log.info("%s was %s; it goes on from its last checkpoint.", folder, state)
        config.ckpt_path = "last"
        if process_rank() == 0:
            RunFolder(folder).error.unlink(missing_ok=True)
        return
    if state is not RunState.NEW and process_rank() == 0:
        log.info("%s was begun, and is %s; it begins anew.", folder, state)
        set_aside(folder)
    note_settings(config)


def _attempted(run: Callable[[DictConfig], float], config: DictConfig, folder: Path, report: Report) -> float | None:
    """Do the job; None where it failed. Its error is recorded and let go of, for its frames hold the model."""
    try:
        value = run(config)
        say_done(str(folder))
        return value
    except Exception as error:
        if run is not run_alone:  # which leaves its own record
            record_failure(folder, error)
        return None
    except BaseException as stop:  # a signal: the sweep ends with the job
        stop.add_note(f"{saved(folder)}; resume the sweep with sweep_folder={folder.parent}")
        raise
    finally:
        _free_memory()
        if process_rank() == 0 and (sweep := RunFolder(folder).sweep):
            _report(sweep, report)


def _report(sweep: Path, report: Report) -> None:
    try:
        log.info("Report of the sweep: %s.", report(sweep)[1])
    except Exception:  # whatever is wrong with it, the job is done
        log.exception("The report of %s could not be written.", sweep)


def _free_memory() -> None:
    gc.collect()
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        sys.modules["torch"].cuda.empty_cache()
