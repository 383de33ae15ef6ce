"""What a run's folder says of the run: finished, failed, interrupted, or not begun."""

import json
import os
import shutil
import traceback
from enum import StrEnum
from pathlib import Path

METRICS, ERROR, CONFIG, LAST = "metrics.json", "error.txt", "config.yaml", "checkpoints/last.ckpt"

# Made anew by Hydra before a job looks at its folder.
_OF_THIS_ATTEMPT = (".hydra", "*.log", "attempt_*")


class RunState(StrEnum):
    """How far a run came."""

    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    NEW = "not begun"


def run_state(folder: Path) -> RunState:
    """How far the run in `folder` came. `metrics.json` is written last, `error.txt` when it fails."""
    if (folder / METRICS).exists():
        return RunState.FINISHED
    if (folder / ERROR).exists():
        return RunState.FAILED
    return RunState.INTERRUPTED if (folder / CONFIG).exists() else RunState.NEW


def record_failure(folder: Path, error: BaseException, rank: int) -> None:
    """Write `error.txt`: one sentence, then how it came to it. Of several processes, the first one's stays."""
    sentence = " ".join(str(error).split()) or type(error).__name__
    text = f"{sentence}\n\n{''.join(traceback.format_exception(error))}"
    if rank == 0 or not (folder / ERROR).exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ERROR).write_text(text, encoding="utf-8")


def failure(folder: Path) -> str:
    """The sentence of `error.txt`."""
    return (folder / ERROR).read_text(encoding="utf-8").partition("\n")[0]


def set_aside(folder: Path) -> None:
    """Move what an earlier attempt left into `attempt_1/` (2, 3, ...), so that the next one begins anew.

    `error.txt` goes last: another process that looks meanwhile sees either a failed run or none.
    """
    number = next(n for n in range(1, 10_000) if not (folder / f"attempt_{n}").exists())
    stays = {path for pattern in _OF_THIS_ATTEMPT for path in folder.glob(pattern)}
    left = sorted((path for path in folder.iterdir() if path not in stays), key=lambda path: path.name == ERROR)
    if left:
        (folder / f"attempt_{number}").mkdir()
    for path in left:
        shutil.move(path, folder / f"attempt_{number}" / path.name)


def final_metrics(folder: Path) -> dict[str, object]:
    """What `metrics.json` says."""
    return json.loads((folder / METRICS).read_text(encoding="utf-8"))


def sweep_of(folder: Path) -> Path | None:
    """The folder of the sweep that the run belongs to: Hydra leaves a `multirun.yaml` there."""
    parent = Path(os.path.abspath(folder)).parent
    return parent if (parent / "multirun.yaml").exists() else None
