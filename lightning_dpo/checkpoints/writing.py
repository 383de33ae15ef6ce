"""Writing of checkpoints: atomically, and with copies of the previous ones."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.plugins import CheckpointIO, TorchCheckpointIO

from lightning_dpo.checkpoints.reading import check_loadable, check_whole
from lightning_dpo.errors import UserError
from lightning_dpo.printable import one_line
from lightning_dpo.run_folder import atomic_write


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file in the same folder and renames it. Verifies checksums when it loads one.

    Lightning writes to TMPDIR and moves the file. If TMPDIR is on another file system, that is a copy, and a kill
    during the copy leaves a truncated file. Lightning also ignores that a folder is not writable.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write `checkpoint` to `path`.

        Raises:
            WriteError: The folder is not writable, or the disk is full. An existing file is unchanged.
        """
        if "://" in str(path):  # uploads to object storage are atomic
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with atomic_write(Path(path)) as file:
            try:
                # By name: torch.save writes to a Python file in small parts, which takes nearly twice as long.
                torch.save(checkpoint, file.name)
            except RuntimeError as error:  # torch's own error for a full disk
                raise OSError(one_line(str(error))[:200]) from error
            check_loadable(Path(file.name), path)

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> Any:
        """Load `path`.

        Raises:
            UserError: It is damaged.
        """
        if "://" not in str(path):
            check_whole(Path(path))
        return super().load_checkpoint(path, map_location, weights_only)


def previous(path: Path, number: int = 1) -> Path:
    """The checkpoint that `path` replaced; with `number`, an earlier one.

    >>> previous(Path("checkpoints/last.ckpt")).name, previous(Path("checkpoints/last.ckpt"), 2).name
    ('last.previous.ckpt', 'last.previous2.ckpt')
    """
    return path.with_name(f"{path.stem}.previous{number if number > 1 else ''}{path.suffix}")


def keep_previous(path: Path, keep: int = 1) -> None:
    """Keep the file at `path`, before it is replaced, and its `keep - 1` predecessors.

    The file gets a second name, as a hard link, so that `path` exists at any time and no data are copied.
    """
    if not keep or not path.exists():
        return
    for number in range(keep - 1, 0, -1):
        if previous(path, number).exists():
            previous(path, number).replace(previous(path, number + 1))
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
