"""The loggers of a run: a CSV file that continues after a resume, and wandb, which never waits for a login."""

import hashlib
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lightning import Trainer
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from lightning_dpo.checkpoints.reading import newest_whole, opened
from lightning_dpo.run_folder import RunFolder, earlier_checkpoints
from lightning_dpo.runs.history import History
from lightning_dpo.runs.state import attempts

log = logging.getLogger(__name__)

# Messages of Lightning that say nothing about this run.
_NOT_INFORMATIVE = ("💡 Tip", "TPU available", "HPU available", "Loading `train_dataloader` to estimate")


class HistoryLogger(Logger):
    """Writes metrics to `metrics.csv`. The settings of a run are in its `config.yaml`.

    Lightning's `CSVLogger` deletes an existing file when it is created, rewrites it in place, and writes the values of
    environment variables in the settings to `hparams.yaml`.

    Args:
        history: The file.
        flush_every_n_steps: Number of logged steps between two writes.
    """

    name = version = ""

    def __init__(self, history: History, flush_every_n_steps: int) -> None:
        super().__init__()
        self.history, self.flush_every_n_steps = history, flush_every_n_steps

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a row."""
        self.history.add(
            {name: getattr(value, "item", lambda v=value: v)() for name, value in metrics.items()}, step or 0
        )
        if ((step or 0) + 1) % self.flush_every_n_steps == 0:
            self.save()

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to do."""

    @rank_zero_only
    def save(self) -> None:
        """Write the rows that were added."""
        self.history.save()

    def finalize(self, status: str) -> None:
        """Write the last rows."""
        self.save()


def csv_logger(folder: str, flush_every_n_steps: int = 20) -> HistoryLogger:
    """A logger that writes `metrics.csv` in `folder` and keeps the rows of a run that resumes.

    Args:
        folder: The run's folder, with a checkpoint if the run resumes.
        flush_every_n_steps: Number of logged steps between two writes.
    """
    run = RunFolder(folder)
    # Only the first rank writes the file.
    first = getattr(rank_zero_only, "rank", 0) == 0
    done = opened(newest_whole(run.checkpoints))["global_step"] if first and earlier_checkpoints(run.checkpoints) else 0
    return HistoryLogger(History(run.history, done), flush_every_n_steps)


def wandb_logger(
    folder: str,
    project: str | None = None,
    name: str | None = None,
    entity: str | None = None,
    group: str | None = None,
    tags: Sequence[str] = (),
) -> WandbLogger:
    """A wandb run: online if there is a key, otherwise offline. It never asks for a key. `WANDB_MODE` takes precedence.

    wandb itself reads the environment variables of arguments that are None or empty: `WANDB_ENTITY`, `WANDB_TAGS`, ...

    Args:
        folder: The run's folder, which contains wandb's files.
        project: wandb project; None: `WANDB_PROJECT`, or `lightning-dpo`.
        name: Name of the run; None: `WANDB_NAME`, or the folder's parent, which is `run_name`. In a sweep, it is
            followed by the name of the job's folder.
        entity: Team or user; None: the owner of the key.
        group: Group of runs; None: for a job, its sweep.
        tags: Tags of the run.
    """
    import wandb

    key = os.environ.get("WANDB_API_KEY") or _key_in_netrc(wandb.Settings().base_url)
    mode = os.environ.get("WANDB_MODE") or ("online" if key else "offline")
    if mode == "offline":
        # wandb would print this again at start and end.
        wandb.setup(wandb.Settings(silent=True))
        log.info(
            "wandb is offline. Run `wandb login` to log online, or upload the run: wandb sync %s/wandb/offline-run-*",
            shlex.quote(folder),
        )
    path, environment = Path(folder).resolve(), os.environ
    project = project or environment.get("WANDB_PROJECT") or "lightning-dpo"
    name = name or environment.get("WANDB_NAME")
    if sweep := RunFolder(folder).sweep:
        group = group or environment.get("WANDB_RUN_GROUP") or f"{sweep.parent.name}-{sweep.name}"
        name = f"{name or sweep.parent.name} {path.name}"
    # An id that depends on the folder: a resumed run continues the wandb run, and a restarted one creates a new one.
    earlier = attempts(Path(folder))
    location = f"{path}{f' {earlier}' if earlier else ''}"
    identity = hashlib.sha256(location.encode()).hexdigest()[:12]
    # An agent of a wandb sweep sets the id of each run. The jobs of a Hydra sweep must not share one.
    identity = identity if sweep else environment.get("WANDB_RUN_ID") or identity
    return WandbLogger(
        name=name or path.parent.name, id=identity, save_dir=folder, project=project, entity=entity, group=group,
        tags=list(tags) or None, mode=mode, job_type="train", settings=wandb.Settings(console="off"),
    )  # fmt: skip


def _key_in_netrc(url: str) -> str | None:
    """The key that `wandb login` has written for a server; None without one, or if the file cannot be read."""
    try:
        # By name: without one, a file that others can read is rejected.
        file = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
        found = netrc(file).authenticators(urlsplit(url).hostname or "")
    except (OSError, RuntimeError, NetrcParseError):
        return None
    return found[2] if found else None


def wandb_url(trainer: Trainer) -> str | None:
    """The address of the run in wandb; None without wandb, or offline."""
    return next((one.experiment.url for one in trainer.loggers if isinstance(one, WandbLogger)), None)


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
        logging.getLogger(name).addFilter(_is_informative)


def _is_informative(record: logging.LogRecord) -> bool:
    return not any(text in record.getMessage() for text in _NOT_INFORMATIVE)
