"""Files that are damaged, foreign or dangerous: each is explained in one sentence."""

import os
import re
import struct
from pathlib import Path

import pytest
import torch

from lightning_dpo.checkpoints.reading import check_whole, newest_whole, opened
from lightning_dpo.errors import UserError

ENTRY = {"format": 2, "trained_with": {}, "has_rewards": True, "tensors": [], "packages": {}, "validated_step": None}
WHOLE = {"state_dict": {"w": torch.arange(3000.0)}, "global_step": 3, "lightning_dpo": ENTRY}


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def truncated(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def flipped(path: Path) -> None:
    """One bit of the exponent of one number."""
    data = bytearray(path.read_bytes())
    data[data.index(struct.pack("<f", 1000.0)) + 3] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "does not exist": Path.unlink,
    "is empty": lambda path: truncated(path, 0),
    "is truncated, or is not a checkpoint": lambda path: truncated(path, path.stat().st_size // 2),
    "is truncated, or is not a": lambda path: truncated(path, path.stat().st_size - 100),
    "is truncated, or is not": lambda path: path.write_text("not a checkpoint"),
    r"is damaged: the checksum of its entry .*data/0 is wrong": flipped,
    "is a folder, not a checkpoint": lambda path: (path.unlink(), path.mkdir()),
    r"is not a checkpoint: use a file in RUN/checkpoints": lambda path: torch.save({}, path),
    "is not a checkpoint: use a file in RUN": lambda path: torch.save([1], path),
    "was not written by this version of lightning_dpo": lambda path: torch.save({"state_dict": {}}, path),
    "has format 1, and this version of lightning_dpo reads format 2": lambda path: torch.save(
        WHOLE | {"lightning_dpo": {"format": 1}}, path
    ),
    "is not a checkpoint: it lacks tensors, trained_with": lambda path: torch.save(
        WHOLE | {"lightning_dpo": {name: ENTRY[name] for name in ENTRY if name not in ("tensors", "trained_with")}},
        path,
    ),
    "contains Python objects that could execute code": lambda path: torch.save(WHOLE | {"x": Bomb()}, path),
}


@pytest.mark.parametrize("message", DAMAGES)
def test_a_file_that_is_not_a_whole_checkpoint(tmp_path, monkeypatch, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "last.ckpt"
    torch.save(WHOLE, path)
    assert opened(path)["global_step"] == 3
    DAMAGES[message](path)
    with pytest.raises(UserError, match=f"^{re.escape(str(path))} {message}") as error:
        opened(path)
    assert "\n" not in str(error.value)
    assert not Path("executed").exists()


def test_a_run_resumes_from_the_newest_whole_checkpoint(tmp_path):
    for age, name in enumerate(("last", "last.previous", "last.previous2")):
        path = tmp_path / f"{name}.ckpt"
        torch.save(WHOLE | {"global_step": 3 - age}, path)
        os.utime(path, (1000 + age, 1000 + age))  # as in a copy of the folder
    assert newest_whole(tmp_path).name == "last.ckpt"
    flipped(tmp_path / "last.ckpt")
    assert newest_whole(tmp_path).name == "last.previous.ckpt"
    for path in tmp_path.iterdir():
        truncated(path, 10)
    with pytest.raises(UserError, match=r"is truncated.*; .*is truncated.*: start a new run without ckpt_path"):
        newest_whole(tmp_path)


def test_a_file_that_changes_is_verified_again(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save(WHOLE, path)
    check_whole(path)
    flipped(path)
    with pytest.raises(UserError, match="the checksum"):
        check_whole(path)
