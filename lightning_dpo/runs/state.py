"""What a run's folder says of the run: how far it came, why it stopped, and whether a process is at work in it."""

import json
import shutil
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lightning_dpo.errors import UserError
from lightning_dpo.run_folder import RunFolder

# Made anew by Hydra, or held, before a job looks at its folder.
_OF_THIS_ATTEMPT = (".hydra", ".lock", "*.log", "attempt_*")
_ANEW = "An error that would repeat itself: a sweep restarts the job."
_GOES_ON = "A crash: a sweep resumes the job from its last checkpoint, if there is one."
_CRASHES = (
    _GOES_ON,
    "Not a mistake: a sweep goes on from the job's last checkpoint, and a single run by ckpt_path=last.",
)


class RunState(StrEnum):
    """How far a run came."""

    FINISHED = "finished"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    CRASHED = "crashed"
    FAILED = "failed"
    NEW = "not begun"


def run_state(folder: Path) -> RunState:
    """How far the run in `folder` came.

    `config.yaml` is written when it begins, `metrics.json` last; `error.txt` says whether it failed by a mistake, which
    it would make again, or crashed.
    """
    if RunFolder(folder).metrics.exists():
        return RunState.FINISHED
    if RunFolder(folder).error.exists():
        # Another rank may be writing it: until its second line is there, it counts as a failure.
        lines = RunFolder(folder).error.read_text(encoding="utf-8").splitlines()
        return RunState.CRASHED if len(lines) > 1 and lines[1] in _CRASHES else RunState.FAILED
    return RunState.INTERRUPTED if RunFolder(folder).config.exists() else RunState.NEW


def state_now(folder: Path) -> RunState:
    """The same for somebody else's run, which a process may be at work on."""
    state = run_state(folder)
    if state is RunState.INTERRUPTED and RunFolder(folder).lock.exists():
        try:
            with claimed(folder):
                return state
        except UserError:
            return RunState.RUNNING
    return state


def record_failure(folder: Path, error: BaseException) -> None:
    """Write `error.txt`: one sentence, what will be done about it, and how it came to it.

    The first rank to fail writes first; later ranks usually report only that they lost the connection.
    """
    mistake = isinstance(error, UserError)
    sentence = " ".join(str(error).split())
    sentence = sentence if mistake else f"{type(error).__name__}: {sentence}"
    folder.mkdir(parents=True, exist_ok=True)
    with RunFolder(folder).error.open("a", encoding="utf-8") as file:
        trace = "".join(traceback.format_exception(error))
        file.write(f"{sentence}\n{_ANEW if mistake else _GOES_ON}\n\n{trace}\n")


def failure(folder: Path) -> str:
    """The sentence of `error.txt`; empty where there is none."""
    error = RunFolder(folder).error
    return error.read_text(encoding="utf-8").partition("\n")[0] if error.exists() else ""


def saved(folder: Path) -> str:
    """How much of the run in `folder` is on disk.

    >>> saved(Path("nowhere"))
    'nothing saved yet'
    """
    if not RunFolder(folder).last.exists():
        return "nothing saved yet"
    from torch import load  # a stop may come before anything has needed torch

    try:
        return f"saved at step {load(RunFolder(folder).last, mmap=True, weights_only=True)['global_step']}"
    except Exception:  # whatever is wrong with the file, it must not hide why the run ended
        return f"{RunFolder(folder).last} cannot be read"


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Within, no other process may work in `folder`.

    Raises:
        UserError: Another one does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(RunFolder(folder).lock, timeout=0):
            yield
    except Timeout as error:
        raise UserError(f"{folder}: another process is at work here; wait for it, or stop it") from error


def set_aside(folder: Path) -> None:
    """Move what an earlier attempt left into `attempt_1/` (2, 3, ...), so that the next one begins anew.

    `error.txt` goes last: another process that looks meanwhile sees either a failed run or none.
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
    """How many earlier attempts `set_aside` moved away."""
    return len(list(folder.glob("attempt_*")))


def final_metrics(folder: Path) -> dict[str, Any]:
    """What `metrics.json` says."""
    return json.loads(RunFolder(folder).metrics.read_text(encoding="utf-8"))
