"""How checkpoints reach the disk: atomically, and where the one before is kept."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.plugins import CheckpointIO, TorchCheckpointIO

from lightning_dpo.errors import UserError
from lightning_dpo.run_folder import atomic_write


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its destination and renames it.

    Lightning writes to TMPDIR and moves the file, which is a copy where TMPDIR is on another file system: a kill during
    that copy leaves 0 bytes. It also ignores a folder without write permission.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write `checkpoint` to `path`.

        Raises:
            OSError: The folder is not writable, or the disk is full. The file that was there is unchanged.
        """
        if "://" in str(path):  # object storage: uploads are atomic there
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            torch.save(checkpoint, file)


def previous(path: Path) -> Path:
    """The checkpoint that `path` replaced.

    >>> previous(Path("checkpoints/last.ckpt")).name
    'last.previous.ckpt'
    """
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def keep_previous(path: Path) -> None:
    """Keep the file at `path` as `previous(path)` before it is replaced. A hard link: no data is copied."""
    if not path.exists():
        return
    link = path.with_name(f".{path.name}.link")
    link.unlink(missing_ok=True)
    with suppress(OSError):  # some file systems have no hard links: there, only the newest checkpoint is kept
        os.link(path, link)
        link.replace(previous(path))


def write_atomically(trainer: Trainer) -> None:
    """Make `trainer` write its checkpoints with `AtomicCheckpointIO`, unless its user chose a `CheckpointIO`."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        checkpoint_io: CheckpointIO = AtomicCheckpointIO()
        trainer.strategy.checkpoint_io = checkpoint_io


def check_writable(folder: Path, key: str) -> None:
    """Refuse a folder in which no checkpoint can be written, before training.

    Args:
        folder: Where checkpoints are written; created if it does not exist.
        key: The config key that names it.

    Raises:
        UserError: It cannot be created, or no file can be written in it.
    """
    probe = folder / ".writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{key}={folder}: no checkpoint can be written there ({error.strerror})") from error
