import errno
from pathlib import Path

import pytest
import torch

from lightning_dpo.checkpoints.writing import AtomicCheckpointIO, keep_previous, previous
from lightning_dpo.errors import UserError, WriteError

CHECKPOINT = {"state_dict": {"w": torch.zeros(1000)}}


@pytest.mark.parametrize("keep", [0, 1, 3])
def test_the_chosen_number_of_checkpoints_is_kept(tmp_path, keep):
    path = tmp_path / "last.ckpt"
    for step in range(5):
        keep_previous(path, keep)
        AtomicCheckpointIO().save_checkpoint(CHECKPOINT | {"step": step}, path)
    files = [path, *(previous(path, number) for number in range(1, keep + 1))]
    assert [torch.load(file, weights_only=True)["step"] for file in files] == [4, 3, 2, 1, 0][: keep + 1]
    assert len(list(tmp_path.iterdir())) == keep + 1


def test_what_could_not_be_loaded_again_is_not_written(tmp_path):
    """For example because the state of a callback contains a path."""
    with pytest.raises(UserError, match=r"last.ckpt could not be loaded again, so it is not written: the"):
        AtomicCheckpointIO().save_checkpoint(CHECKPOINT | {"callbacks": {"mine": Path("x")}}, tmp_path / "last.ckpt")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    """`torch.save` raises another error on top of that of the file."""
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(CHECKPOINT, path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(WriteError, match=r"last.ckpt could not be written \(No space left on device\)"):
        AtomicCheckpointIO().save_checkpoint({}, path)
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
    assert AtomicCheckpointIO().load_checkpoint(path, weights_only=True)["state_dict"]["w"].shape == (1000,)


def test_what_is_damaged_is_not_loaded(tmp_path):
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"last.ckpt is truncated, or is not a checkpoint; resume from another file"):
        AtomicCheckpointIO().load_checkpoint(path, weights_only=True)
