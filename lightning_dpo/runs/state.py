"""The state of a run according to its folder: progress, failure, and whether a process is running in it."""

import json
import shutil
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lightning_dpo.errors import UserError, WriteError
from lightning_dpo.printable import one_line, printable
from lightning_dpo.run_folder import RunFolder, earlier_checkpoints

# Created by Hydra, or locked, before a job starts, so they belong to the current attempt.
_OF_THIS_ATTEMPT = (".hydra", ".lock", "*.log", "attempt_*")
_RESTARTS = "A user error, which would occur again on resume: a sweep restarts the job from the beginning."
_RESUMES = "A crash: a sweep resumes the job from its last checkpoint, if there is one."


class RunState(StrEnum):
    """Progress of a run."""

    FINISHED = "finished"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    CRASHED = "crashed"
    FAILED = "failed"
    NEW = "not started"


def run_state(folder: Path) -> RunState:
    """Progress of the run in `folder`.

    `config.yaml` is written at the start and `metrics.json` at the end. `error.txt` records whether the run failed with
    a user error, which would occur again, or crashed.
    """
    if RunFolder(folder).metrics.exists():
        return RunState.FINISHED
    if RunFolder(folder).error.exists():
        # Another rank may be writing it: until its second line is there, it counts as a failure.
        lines = RunFolder(folder).error.read_text(encoding="utf-8").splitlines()
        return RunState.CRASHED if len(lines) > 1 and lines[1] == _RESUMES else RunState.FAILED
    return RunState.INTERRUPTED if RunFolder(folder).config.exists() else RunState.NEW


def state_now(folder: Path) -> RunState:
    """Progress of a run that may belong to another, running process."""
    state = run_state(folder)
    if state is RunState.INTERRUPTED and RunFolder(folder).lock.exists():
        try:
            with claimed(folder):
                return state
        except UserError:
            return RunState.RUNNING
    return state


def record_failure(folder: Path, error: BaseException) -> None:
    """Write `error.txt`: the reason in one sentence, what a sweep will do, and the traceback.

    The first rank to fail writes first; later ranks usually report only that they lost the connection.
    """
    by_user = isinstance(error, UserError) and not isinstance(error, WriteError)
    sentence = one_line(str(error))
    sentence = sentence if isinstance(error, UserError) else f"{type(error).__name__}: {sentence}"
    folder.mkdir(parents=True, exist_ok=True)
    with RunFolder(folder).error.open("a", encoding="utf-8") as file:
        trace = printable("".join(traceback.format_exception(error)))
        file.write(f"{sentence}\n{_RESTARTS if by_user else _RESUMES}\n\n{trace}\n")


def failure(folder: Path) -> str:
    """The first sentence of `error.txt`; empty if the file does not exist."""
    error = RunFolder(folder).error
    return error.read_text(encoding="utf-8").partition("\n")[0] if error.exists() else ""


def saved(folder: Path) -> str:
    """What the run in `folder` has saved, as text.

    >>> saved(Path("nowhere"))
    'nothing saved yet'
    """
    checkpoints = earlier_checkpoints(RunFolder(folder).checkpoints)
    if not checkpoints:
        return "nothing saved yet"
    from lightning_dpo.checkpoints.reading import opened  # a run may be stopped before torch is imported

    try:
        return f"saved at step {opened(checkpoints[0], verify=False)['global_step']}"
    except UserError as error:  # a damaged file must not hide the reason why the run ended
        return str(error)


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Context in which no other process can use `folder`.

    Raises:
        UserError: Another process uses it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(RunFolder(folder).lock, timeout=0):
            yield
    except Timeout as error:
        raise UserError(f"{folder}: another process is running in this folder; wait for it, or stop it") from error


def set_aside(folder: Path) -> None:
    """Move the files of an earlier attempt to `attempt_1/` (2, 3, ...) before a restart.

    `error.txt` is moved last, so that other processes see either a failed run or none.
    """
    stays = {path for pattern in _OF_THIS_ATTEMPT for path in folder.glob(pattern)}
    left = sorted(
        (path for path in folder.iterdir() if path not in stays), key=lambda path: path == RunFolder(folder).error
    )
    attempt = folder / f"attempt_{attempts(folder) + 1}"
    if left:
        attempt.mkdir()
    for path in left:
        shutil.move(path, attempt / path.name)


def attempts(folder: Path) -> int:
    """Number of earlier attempts."""
    return len(list(folder.glob("attempt_*")))


def final_metrics(folder: Path) -> dict[str, Any]:
    """The content of `metrics.json`."""
    return json.loads(RunFolder(folder).metrics.read_text(encoding="utf-8"))
