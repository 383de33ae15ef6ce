"""The names of a run's files, and atomic writing."""

import csv
import io
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from lightning_dpo.errors import WriteError

LAST, LAST_IF_ANY = "last", "last_if_any"
"""Values of `ckpt_path`: the newest unfinished run, which must exist, or else a new run."""


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
        self.log_ratios = self.path / "log_ratios.jsonl"
        self.frontier = self.path / "frontier.csv"
        self.checkpoints = self.path / "checkpoints"
        self.last = self.checkpoint("last")
        # Written at the end: `metrics` last, `error` only after a failure.
        self.curves = self.path / "curves.png"
        self.metrics = self.path / "metrics.json"
        self.summary = self.path / "summary.md"
        self.report = self.path / "report.html"
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


def earlier_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder` from which a run can resume: `last.ckpt` and its predecessors, newest first."""
    # By name: last, last.previous, last.previous2, ... A copy of the folder may have other times.
    return sorted(folder.glob("last*.ckpt"), key=lambda path: (len(path.name), path.name))


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Context that returns a file to write. At its end the file replaces `path`, unless there was an exception.

    The content is on disk before the rename, so a kill or a power failure leaves either the old or the new file. The
    temporary file is in the same folder: renames are atomic only within one file system, and TMPDIR may be on another.

    Args:
        path: The file to replace or create. Its folder is created if it does not exist.

    Raises:
        WriteError: The folder is not writable, or the disk is full. An existing file is unchanged.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)  # after a kill; or a link to another file, in a folder of somebody else
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)  # it would fill a full disk
        if (reason := _failed_write(error)) is not None:
            raise WriteError(f"{path} could not be written ({reason}); an existing file is unchanged") from error
        raise


def _failed_write(error: BaseException | None) -> str | None:
    """Why a file could not be written, if that is the reason of `error`. torch.save raises another error on top."""
    while isinstance(error, Exception) and not isinstance(error, OSError):
        if "os error" in str(error):  # safetensors, which is written in Rust, has its own exception
            return str(error)
        error = error.__cause__ or error.__context__
    return error.strerror or str(error) if isinstance(error, OSError) else None


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Context that returns a folder to write to. At its end it replaces `path`, unless there was an exception.

    Raises:
        WriteError: It cannot be written.
    """
    partial, old = path.with_name(f".{path.name}.partial"), path.with_name(f".{path.name}.old")
    try:
        for left in (partial, old):
            shutil.rmtree(left, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                with file.open("rb") as written:
                    os.fsync(written.fileno())
        if path.exists():  # a folder cannot be replaced by a rename unless it is empty
            path.replace(old)
        partial.replace(path)
        sync_folder(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if (reason := _failed_write(error)) is not None:
            raise WriteError(f"{path} could not be written ({reason})") from error
        raise


def write_atomically(path: Path, text: str) -> None:
    """Replace the content of `path` with `text`, atomically."""
    with atomic_write(path) as file:
        file.write(text.encode())


def write_table(path: Path, rows: Iterable[Iterable[object]]) -> None:
    """Replace the content of `path` with `rows` as CSV, atomically."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    write_atomically(path, text.getvalue())


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable against a power failure. Windows cannot open folders and does not need it."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
