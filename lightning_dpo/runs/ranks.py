"""Ranks and communication of processes of torchrun, SLURM or Lightning before they form a process group."""

import os
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_dpo.errors import UserError
from lightning_dpo.runs import slurm

if TYPE_CHECKING:
    from torch.distributed import TCPStore

_FORMAT = "%Y-%m-%d_%H-%M-%S"


def process_rank() -> int:
    """Rank of this process among all processes of the run; 0 for a single process."""
    # torchrun sets RANK; SLURM sets SLURM_PROCID; Lightning sets LOCAL_RANK for processes that it starts.
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if name in os.environ and (name != "SLURM_PROCID" or _by_slurm()):
            return int(os.environ[name])
    return 0


def started_by_others() -> bool:
    """Whether torchrun or SLURM started a process per device. Otherwise, Lightning starts them."""
    return "TORCHELASTIC_RUN_ID" in os.environ or _by_slurm()


def process_count() -> int:
    """Number of processes that torchrun or SLURM started for the run; 1 if neither did."""
    names = ("WORLD_SIZE", "SLURM_NTASKS") if "TORCHELASTIC_RUN_ID" in os.environ else ("SLURM_NTASKS",)
    return next((int(os.environ[name]) for name in names if name in os.environ), 1) if started_by_others() else 1


def new_folder(parent: Path) -> Path:
    """A folder in `parent` that no other run uses, the same one on all ranks.

    The ranks of torchrun have a store that all can access. Those of SLURM derive the name from the job and the command,
    so that a job which was requeued gets its own folder again.
    """
    now = slurm.job_name() if slurm.in_job() else datetime.now().strftime(_FORMAT)
    if _by_slurm() or slurm.is_requeued():
        return parent / now
    if _has_store():
        return parent / (_value_of_first_rank(partial(_created, parent, now)))
    return parent / (_created(parent, now) if process_rank() == 0 else now)


def _created(parent: Path, name: str) -> str:
    """The name of a new folder: `name`, or with a number if another run in the same second or SLURM job has it."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            numbered = name if number == 1 else f"{name}_{number}"
            with suppress(FileExistsError):
                (parent / numbered).mkdir()
                return numbered
    except OSError as error:
        raise UserError(
            f"{parent} cannot be created here ({error.strerror}): start the command in another folder, or set "
            "hydra.run.dir=FOLDER, and in a sweep hydra.sweep.dir=FOLDER"
        ) from error
    raise AssertionError  # `count` does not end


def report_done(what: str) -> None:
    """Report to the other processes of torchrun that this one has done `what`."""
    if _has_store():
        _store().set(_key(f"{what}/{process_rank()}"), "done")


def after_the_first(what: str) -> None:
    """Wait until the first process of torchrun has reported that it has done `what`."""
    if _has_store() and process_rank():
        _store().wait([_key(f"{what}/0")])


def done_by_all(what: str, within: timedelta) -> bool:
    """Report that this process has done `what`, and return whether all others report it within the given time.

    On timeout, this process reports `gone`, so that slower ranks do not assume that it is still running.
    """
    if not _has_store():
        return True
    from torch.distributed import DistStoreError

    report_done(what)
    store, everyone = _store(), range(int(os.environ["WORLD_SIZE"]))
    try:
        store.wait([_key(f"{what}/{rank}") for rank in everyone], within)
    except DistStoreError:
        store.set(_key(f"{what}/{process_rank()}"), "gone")
        return False
    return all(store.get(_key(f"{what}/{rank}")) == b"done" for rank in everyone)


def _by_slurm() -> bool:
    return slurm.in_job() and int(os.environ.get("SLURM_NTASKS", "1")) > 1


def _has_store() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and "RANK" in os.environ


def _store() -> "TCPStore":
    """The store of torchrun's agent."""
    from torch.distributed import TCPStore

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(address, port, is_master=False, timeout=timedelta(minutes=10))


def _key(name: str) -> str:
    return f"lightning_dpo/{name}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"


def _value_of_first_rank(make: Callable[[], str]) -> str:
    """The value of rank 0. It must not change later, because other ranks may have read it."""
    store = _store()
    if process_rank() == 0 and not store.check([_key("folder")]):
        store.set(_key("folder"), make())
    return store.get(_key("folder")).decode()
