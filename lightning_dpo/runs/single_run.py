"""A run outside a sweep: new, resumed, or requeued by SLURM."""

import logging
from collections.abc import Callable
from contextlib import nullcontext, suppress

from omegaconf import DictConfig

from lightning_dpo.errors import UserError
from lightning_dpo.run_folder import LAST, LAST_IF_ANY, RunFolder, earlier_checkpoints
from lightning_dpo.runs import slurm
from lightning_dpo.runs.job_process import objective
from lightning_dpo.runs.ranks import process_rank
from lightning_dpo.runs.state import RunState, claimed, record_failure, run_state, saved

log = logging.getLogger(__name__)


def single_run(train: Callable[[DictConfig], float], config: DictConfig) -> float:
    """Execute a run. If it fails, `error.txt` has the reason; if it is stopped, a note lists what was saved.

    Args:
        train: Executes a run.
        config: Its config.

    Returns:
        The metric `sweep_objective`.

    Raises:
        UserError: The config has a setting for sweeps, or `train` failed.
    """
    if config.sweep_folder is not None:
        raise UserError("sweep_folder has no effect without a sweep: choose one with sweep=..., or set values with -m")
    if config.resume.allow and config.ckpt_path is None and not slurm.is_requeued():
        raise UserError("resume.allow has no effect without ckpt_path: it permits differences from a checkpoint")
    folder, first = RunFolder(config.run_folder), process_rank() == 0
    with claimed(folder.path) if first else nullcontext():
        if slurm.is_requeued() and run_state(folder.path) is RunState.FINISHED:
            log.info("The run in %s was finished before this job was requeued.", folder.path)
            return objective(config)
        before = earlier_checkpoints(folder.checkpoints)
        if config.ckpt_path == LAST_IF_ANY or (config.ckpt_path is None and slurm.is_requeued()):
            config.ckpt_path = LAST if before else None
        written = [path.stat().st_mtime_ns for path in before]
        if first:
            folder.error.unlink(missing_ok=True)  # left by the run that this one resumes
        try:
            return train(config)
        except BaseException as error:
            failed = isinstance(error, Exception)  # otherwise a signal stopped it
            if failed:
                with suppress(OSError):  # on a full disk, `error` must still be raised
                    record_failure(folder.path, error)
            now = earlier_checkpoints(folder.checkpoints)
            if now and (not failed or written != [path.stat().st_mtime_ns for path in now]):
                # A job of a sweep is resumed with the sweep, which prints how.
                hint = "" if folder.sweep else "; resume with ckpt_path=last"
                error.add_note(f"{saved(folder.path)}{hint}")
            elif not failed:
                error.add_note(saved(folder.path))
            raise
