"""The names of a run's files, and atomic writing."""

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
        # Written at the start: settings and command line.
        self.config = self.path / "config.yaml"
        self.command = self.path / "command.txt"
        self.invalid_rows = self.path / "invalid_rows.jsonl"
        # Written during training.
        self.lock = self.path / ".lock"
        self.history = self.path / "metrics.csv"
        self.samples = self.path / "samples.jsonl"
        self.frontier = self.path / "frontier.csv"
        self.checkpoints = self.path / "checkpoints"
        self.last = self.checkpoint("last")
        # Written at the end: `metrics` last, `error` only after a failure.
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
        """The folder of the run's sweep, or None."""
        parent = Path(os.path.abspath(self.path)).parent
        return parent if sweep_config(parent).exists() else None


def sweep_config(sweep: Path) -> Path:
    """The file that Hydra writes to the folder of a sweep."""
    return sweep / "multirun.yaml"


def started_runs(parent: Path) -> list[RunFolder]:
    """The started runs in the subfolders of `parent`. A run that failed before its start has only an error file."""
    folders = (RunFolder(path) for path in sorted(parent.glob("[!.]*")))
    return [folder for folder in folders if folder.config.exists() or folder.error.exists()]


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Context that returns a file to write. At its end the file replaces `path`, unless there was an exception.

    The content is on disk before the rename, so a kill or a power failure leaves either the old or the new file. The
    temporary file is in the same folder: renames are atomic only within one file system, and TMPDIR may be on another.

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
        partial.unlink(missing_ok=True)  # it would fill a full disk
        raise
    sync_folder(path.parent)


def write_atomically(path: Path, text: str) -> None:
    """Replace the content of `path` with `text`, atomically."""
    with atomic_write(path) as file:
        file.write(text.encode())


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable against a power failure. Windows cannot open folders and does not need it."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
