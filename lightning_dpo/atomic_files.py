"""Files that are written as a whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


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
