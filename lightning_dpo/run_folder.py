"""The files of a run: their names, and writing them as a whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


class RunFolder:
    """The files of the run in one folder.

    Args:
        path: The folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        # Written when the run begins: its settings and its command line.
        self.config = self.path / "config.yaml"
        self.command = self.path / "command.txt"
        self.invalid_rows = self.path / "invalid_rows.jsonl"
        # While it trains.
        self.lock = self.path / ".lock"
        self.history = self.path / "metrics.csv"
        self.samples = self.path / "samples.jsonl"
        self.frontier = self.path / "frontier.csv"
        self.checkpoints = self.path / "checkpoints"
        self.last = self.checkpoint("last")
        # When it ends: `metrics` is written last, `error` only if it failed.
        self.curves = self.path / "curves.png"
        self.metrics = self.path / "metrics.json"
        self.error = self.path / "error.txt"
        # Written by the other commands.
        self.inspection = self.path / "inspection.json"
        self.lengths = self.path / "lengths.png"
        self.scores = self.path / "scores.jsonl"
        self.scored_pairs = self.path / "pairs.csv"
        self.calibration = self.path / "calibration.png"

    def checkpoint(self, name: str) -> Path:
        """The checkpoint `best` or `last`."""
        return self.checkpoints / f"{name}.ckpt"

    @property
    def sweep(self) -> Path | None:
        """The folder of the sweep that the run belongs to, if it belongs to one."""
        parent = Path(os.path.abspath(self.path)).parent
        return parent if sweep_config(parent).exists() else None


def sweep_config(sweep: Path) -> Path:
    """The file that Hydra leaves in the folder of a sweep."""
    return sweep / "multirun.yaml"


def begun_runs(parent: Path) -> list[RunFolder]:
    """The runs in the folders directly below `parent` that have begun; a run that fails earlier has only an error."""
    folders = (RunFolder(path) for path in sorted(parent.glob("[!.]*")))
    return [folder for folder in folders if folder.config.exists() or folder.error.exists()]


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which replaces `path` when the block ends, and leaves it as it was when the block raises.

    The new content is on disk before it gets its name, so a kill or a power failure leaves the old file or the new one.
    It is written beside `path`: a rename is atomic only within one file system, and TMPDIR is often on another.

    Args:
        path: The file to replace or create. Its folder must exist.

    Raises:
        OSError: The folder is not writable, or the disk is full.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)  # a full disk needs its room
        raise
    sync_folder(path.parent)


def write_whole(path: Path, text: str) -> None:
    """Replace the content of `path` by `text`, atomically."""
    with atomic_write(path) as file:
        file.write(text.encode())


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power failure. Windows cannot open folders, and needs no such call."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
