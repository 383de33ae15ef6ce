"""Reading of checkpoints: their checksums are verified, and they cannot execute code."""

import functools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lightning_dpo.errors import UserError
from lightning_dpo.printable import one_line
from lightning_dpo.run_folder import earlier_checkpoints

ENTRY = "lightning_dpo"
"""Key of this package's entry in a checkpoint."""
FORMAT = 2
"""Increase it whenever older checkpoints or exports can no longer be used."""


_KEYS = {"format", "trained_with", "has_rewards", "tensors", "packages", "validated_step"}
_USE = (
    "use a file in RUN/checkpoints; to train other weights, save them as a folder with save_pretrained, and set "
    "model.name to it"
)


def opened(path: str | Path, verify: bool = True) -> dict[str, Any]:
    """The content of a checkpoint of this package. Tensors are memory-mapped, so they are read when they are used.

    Args:
        path: The file.
        verify: Whether to verify the checksums, for which the whole file must be read.

    Raises:
        UserError: The file does not exist, is damaged, contains code, or is not a checkpoint of this package.
    """
    if verify:
        check_whole(Path(path))
    try:
        saved = torch.load(path, mmap=True, weights_only=True, map_location="cpu")
    except Exception as error:  # other files fail in many ways
        if type(error).__name__ == "UnpicklingError":
            raise UserError(
                f"{path} contains Python objects that could execute code when they are loaded, so it is not a "
                "checkpoint of lightning_dpo"
            ) from error
        raise UserError(f"{path} is not a checkpoint ({type(error).__name__})") from error
    if not isinstance(saved, dict) or "state_dict" not in saved:
        raise UserError(f"{path} is not a checkpoint: {_USE}")
    entry_of(saved, path)
    return saved


def entry_of(checkpoint: Mapping[str, Any], path: str | Path = "the checkpoint") -> dict[str, Any]:
    """This package's entry in a checkpoint.

    Args:
        checkpoint: The content of the file.
        path: The file, for messages.

    Raises:
        UserError: The entry is missing or incomplete, or it has another format.
    """
    entry = checkpoint.get(ENTRY)
    if not isinstance(entry, dict):
        raise UserError(f"{path} was not written by this version of lightning_dpo: {_USE}")
    check_format(entry.get("format"), path)
    if missing := sorted(_KEYS - entry.keys()):
        raise UserError(f"{path} is not a checkpoint: it lacks {', '.join(missing)}")
    return entry


def check_loadable(written: Path, path: str | Path) -> None:
    """Check that a checkpoint that was just written can be read again.

    Args:
        written: The temporary file.
        path: Its final name, for the message.

    Raises:
        UserError: It contains objects that `weights_only=True` rejects.
    """
    try:
        torch.load(written, mmap=True, weights_only=True, map_location="cpu")
    except Exception as error:
        raise UserError(
            f"{path} could not be loaded again, so it is not written: the states of callbacks and the hyperparameters "
            f"must consist of tensors, numbers, text, lists and dicts ({one_line(str(error))[-200:]})"
        ) from error


def check_resumable(checkpoint: Mapping[str, Any], path: str | Path = "the checkpoint") -> None:
    """Check that a checkpoint contains the state of a training, and not only weights.

    Raises:
        UserError: It contains only weights.
    """
    # With FSDP, the strategy has already removed both.
    if "state_dict" in checkpoint and "optimizer_states" not in checkpoint:
        raise UserError(
            f"{path} contains only weights, as best.ckpt does: resume from last.ckpt; to start a new run from these "
            "weights, export them with `python -m lightning_dpo.export RUN` and set model.name to the export"
        )


def check_format(number: object, path: str | Path) -> None:
    """Check the format number of a checkpoint or an export.

    Raises:
        UserError: It is another one.
    """
    if number != FORMAT:
        raise UserError(
            f"{path} has format {number}, and this version of lightning_dpo reads format {FORMAT}: use the version "
            "that wrote it"
        )


def newest_whole(folder: Path) -> Path:
    """The newest checkpoint in `folder` from which a run can resume and that is not damaged.

    Raises:
        UserError: There is none.
    """
    damaged = []
    for path in earlier_checkpoints(folder):
        if not (damage := damage_of(path)):
            return path
        damaged.append(f"{path} {damage}")
    reason = "; ".join(damaged) or f"{folder} has no checkpoint from which the run can resume"
    raise UserError(f"{reason}: start a new run without ckpt_path")


def check_whole(path: Path) -> None:
    """Check that a checkpoint is complete and that its content has the checksums that were written with it.

    Raises:
        UserError: It is not; the message states what is wrong.
    """
    if damage := damage_of(path):
        raise UserError(f"{path} {damage}; resume from another file in {path.parent}, or start a new run")


def damage_of(path: Path) -> str:
    """What is wrong with a checkpoint, as the predicate of a sentence; empty if it is whole."""
    if not path.exists():
        return "does not exist"
    if path.is_dir():
        return "is a folder, not a checkpoint"
    status = path.stat()
    return _damage(path, status.st_size, status.st_mtime_ns)


# A file is verified once, although several parts of a program read it. Size and time are part of the key.
@functools.cache
def _damage(path: Path, size: int, _time: int) -> str:
    if not size:
        return "is empty"
    try:
        # `torch.save` writes a zip archive with a CRC-32 of every tensor. `torch.load` does not verify them.
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError):
        return "is truncated, or is not a checkpoint"
    return f"is damaged: the checksum of its entry {wrong} is wrong" if wrong else ""
