"""The two loggers of a run: a CSV file that survives a resume, and wandb, which never waits for a login."""

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
    """A logger that writes `metrics.csv` in `folder`, going on with the file that is there.

    Steps after the last checkpoint are done again by a run that goes on, so their old rows are left out.

    Args:
        folder: The run's folder, `checkpoints/last.ckpt` in it if the run goes on.
        flush_every_n_steps: Logged steps from one write to the next.
    """
    path = RunFolder(folder).history
    # Of several processes, only the first one writes.
    first = getattr(rank_zero_only, "rank", 0) == 0
    rows = list(csv.DictReader(path.open(newline=""))) if first and path.exists() else []
    checkpoint = RunFolder(folder).last
    if checkpoint.exists():
        done = torch.load(checkpoint, mmap=True, weights_only=True)["global_step"]
        rows = [row for row in rows if int(row["step"]) < done]
    logger = CSVLogger(folder, name="", version="", flush_logs_every_n_steps=flush_every_n_steps)
    with warnings.catch_warnings():
        # Lightning warns that it deletes the file in a folder that is not empty; the rows are written back below.
        warnings.filterwarnings("ignore", message="Experiment logs directory")
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
    """A wandb run: online where a key is at hand, else offline, never asking for one. `WANDB_MODE` overrules.

    Args:
        folder: The run's folder; wandb's files go into it.
        project: wandb project.
        name: Name of the run; in a sweep, that of the job's folder follows.
        entity: Team or user; None: the key's own.
        group: Group of runs; None: of a job, its sweep.
        tags: Tags of the run.
    """
    import wandb
    from requests.utils import get_netrc_auth

    key = os.environ.get("WANDB_API_KEY") or get_netrc_auth(wandb.Settings().base_url)
    mode = os.environ.get("WANDB_MODE") or ("online" if key else "offline")
    if mode == "offline":
        # wandb would say so again, at the start and at the end.
        wandb.setup(wandb.Settings(silent=True))
        log.info("wandb: offline, in %s; `wandb login` before a run makes it online, `wandb sync` uploads one.", folder)
    if sweep := RunFolder(folder).sweep:
        group = group or f"{sweep.parent.name}-{sweep.name}"
        name = f"{name} {Path(folder).name}" if name else Path(folder).name
    # The folder's own id, so that a run that goes on in it goes on in wandb, too, and one that begins anew does not.
    begun_before = attempts(Path(folder))
    place = f"{Path(folder).resolve()}{f' {begun_before}' if begun_before else ''}"
    identity = hashlib.sha256(place.encode()).hexdigest()[:12]
    return WandbLogger(
        name=name, id=identity, save_dir=folder, project=project, entity=entity, group=group, tags=list(tags),
        mode=mode, job_type="train", settings=wandb.Settings(console="off"),
    )  # fmt: skip


def end_wandb() -> None:
    """End the wandb run, if there is one: the next job of a sweep would go on in it."""
    if "wandb" in sys.modules:
        sys.modules["wandb"].finish()


def join_lightning_logs() -> None:
    """Let Lightning's log records go where Hydra's go, once, without advertisements and deprecations of its own."""
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
    # Lightning's way to gather tensors of all devices.
    warnings.filterwarnings("ignore", message=r"torch.distributed.nn.functional.all_gather is deprecated")
    # peft asks for the old name.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).addFilter(lambda record: "💡 Tip" not in record.getMessage())
