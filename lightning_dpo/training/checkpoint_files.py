"""Writing of checkpoints: atomically, and with a copy of the previous one."""

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
    """Writes a checkpoint to a temporary file in the same folder and renames it.

    Lightning writes to TMPDIR and moves the file. If TMPDIR is on another file system, that is a copy, and a kill
    during the copy leaves a truncated file. Lightning also replaces files in a folder without write permission.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write `checkpoint` to `path`.

        Raises:
            OSError: The folder is not writable, or the disk is full. An existing file is unchanged.
        """
        if "://" in str(path):  # uploads to object storage are atomic
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
    """Keep the file at `path` as `previous(path)` before it is replaced, as a hard link, without copying data."""
    if not path.exists():
        return
    # `os.link` cannot overwrite a file, so link to a temporary name and rename.
    link = path.with_name(f".{path.name}.link")
    link.unlink(missing_ok=True)
    with suppress(OSError):  # on file systems without hard links, only the newest checkpoint is kept
        os.link(path, link)
        link.replace(previous(path))


def write_atomically(trainer: Trainer) -> None:
    """Make `trainer` write checkpoints with `AtomicCheckpointIO`, unless the user chose another `CheckpointIO`."""
    # The exact type: a subclass is the choice of the user.
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        checkpoint_io: CheckpointIO = AtomicCheckpointIO()
        trainer.strategy.checkpoint_io = checkpoint_io


def check_writable(folder: Path, key: str) -> None:
    """Check before training that checkpoints can be written.

    Args:
        folder: Folder of the checkpoints; created if it does not exist.
        key: Its config key.

    Raises:
        UserError: The folder cannot be created, or files cannot be written in it.
    """
    probe = folder / ".writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{key}={folder}: checkpoints cannot be written there ({error.strerror})") from error
