"""The loggers of a run: a CSV file that continues after a resume, and wandb, which never waits for a login."""

import csv
import hashlib
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from lightning_dpo.run_folder import RunFolder
from lightning_dpo.runs.state import attempts

log = logging.getLogger(__name__)


def csv_logger(folder: str, flush_every_n_steps: int = 20) -> CSVLogger:
    """A logger that writes `metrics.csv` in `folder` and keeps the rows of an existing file.

    A resumed run repeats the steps after its last checkpoint, so their old rows are removed.

    Args:
        folder: The run's folder, with `checkpoints/last.ckpt` if the run resumes.
        flush_every_n_steps: Number of logged steps between two writes.
    """
    path = RunFolder(folder).history
    # Only the first rank writes the file.
    first = getattr(rank_zero_only, "rank", 0) == 0
    rows = list(csv.DictReader(path.open(newline=""))) if first and path.exists() else []
    checkpoint = RunFolder(folder).last
    if checkpoint.exists():
        done = torch.load(checkpoint, mmap=True, weights_only=True)["global_step"]
        # Steps are logged from 0, so step `done` is the first one after the checkpoint.
        rows = [row for row in rows if int(row["step"]) < done]
    logger = CSVLogger(folder, name="", version="", flush_logs_every_n_steps=flush_every_n_steps)
    with warnings.catch_warnings():
        # Lightning warns that it deletes the file in a folder that is not empty; the rows are written back below.
        warnings.filterwarnings("ignore", message="Experiment logs directory")
        # This deletes an existing metrics.csv, so its rows were read before.
        experiment = logger.experiment
    for row in rows:
        values = {name: float(value) for name, value in row.items() if value and name != "step"}
        experiment.log_metrics(values, step=int(row["step"]))
    experiment.save()
    return logger


def wandb_logger(
    folder: str,
    project: str,
    name: str | None = None,
    entity: str | None = None,
    group: str | None = None,
    tags: Sequence[str] = (),
) -> WandbLogger:
    """A wandb run: online if there is a key, otherwise offline. It never asks for a key. `WANDB_MODE` takes precedence.

    Args:
        folder: The run's folder, which contains wandb's files.
        project: wandb project.
        name: Name of the run; in a sweep, followed by the name of the job's folder.
        entity: Team or user; None: the owner of the key.
        group: Group of runs; None: for a job, its sweep.
        tags: Tags of the run.
    """
    import wandb
    from requests.utils import get_netrc_auth

    key = os.environ.get("WANDB_API_KEY") or get_netrc_auth(wandb.Settings().base_url)
    mode = os.environ.get("WANDB_MODE") or ("online" if key else "offline")
    if mode == "offline":
        # wandb would print this again at start and end.
        wandb.setup(wandb.Settings(silent=True))
        log.info("wandb is offline, in %s. Run `wandb login` to log online, or `wandb sync` to upload the run.", folder)
    if sweep := RunFolder(folder).sweep:
        group = group or f"{sweep.parent.name}-{sweep.name}"
        name = f"{name} {Path(folder).name}" if name else Path(folder).name
    # An id that depends on the folder: a resumed run continues the wandb run, and a restarted one creates a new one.
    earlier = attempts(Path(folder))
    location = f"{Path(folder).resolve()}{f' {earlier}' if earlier else ''}"
    identity = hashlib.sha256(location.encode()).hexdigest()[:12]
    return WandbLogger(
        name=name, id=identity, save_dir=folder, project=project, entity=entity, group=group, tags=list(tags),
        mode=mode, job_type="train", settings=wandb.Settings(console="off"),
    )  # fmt: skip


def end_wandb() -> None:
    """End the wandb run, if there is one. Otherwise the next job of a sweep would continue it."""
    if "wandb" in sys.modules:
        sys.modules["wandb"].finish()


def join_lightning_logs() -> None:
    """Send Lightning's log records to Hydra's handlers, without its tips and its own deprecation warnings."""
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
    # Lightning itself uses this function.
    warnings.filterwarnings("ignore", message=r"torch.distributed.nn.functional.all_gather is deprecated")
    # peft itself uses the old name.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).addFilter(lambda record: "💡 Tip" not in record.getMessage())
