"""SIGKILL while a checkpoint is written, TMPDIR being on another file system: what is on disk is whole."""

import os
import random
import signal
import tempfile
import time
from pathlib import Path

import lightning
import pytest
import torch

from lightning_dpo import DPOModule, PreferenceDataModule
from lightning_dpo.callbacks import BestCheckpoint, LastCheckpoint
from tests.support.models import make_llama
from tests.support.ranks import _FORKS

ELSEWHERE = Path("/dev/shm")  # a file system of its own, on Linux


def train(folder: Path, pairs: Path, tokenizer) -> None:
    """Writes a checkpoint of about 70 MB after every step, for as long as it lives."""
    os.environ["TMPDIR"], tempfile.tempdir = str(ELSEWHERE), None
    policy = make_llama(hidden_size=512, intermediate_size=1024, num_hidden_layers=2)
    data = PreferenceDataModule(str(pairs), tokenizer=tokenizer, batch_size=2, val_fraction=0.2, layout="padded")
    best = BestCheckpoint(str(folder), "val/loss", "min")
    lightning.Trainer(
        max_epochs=1000, logger=False, accelerator="cpu", enable_progress_bar=False, num_sanity_val_steps=0,
        callbacks=[best, LastCheckpoint(str(folder), every_n_steps=1)],
    ).fit(DPOModule(policy), data)  # fmt: skip


def files(folder: Path) -> list[tuple]:
    return sorted((entry.name, entry.stat().st_size, entry.stat().st_mtime_ns) for entry in os.scandir(folder))


def killed_while_writing(folder: Path, delay: float, *arguments) -> None:
    """Kill the training `delay` seconds after it begins to change a file, once its first checkpoints are there."""
    process = _FORKS.Process(target=train, args=(folder, *arguments))
    process.start()
    end = time.monotonic() + 60
    while not (folder / "last.ckpt").exists() and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.3)
    before = files(folder)
    while time.monotonic() < end:
        try:
            if files(folder) != before:
                break
        except FileNotFoundError:  # renamed between the listing and the look
            break
    time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.skipif(not ELSEWHERE.is_dir(), reason="no second file system")
@pytest.mark.extended
@pytest.mark.parametrize("seed", range(30))
def test_a_kill_leaves_whole_checkpoints(tmp_path, pairs_file, tokenizer, seed):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    assert folder.stat().st_dev != ELSEWHERE.stat().st_dev
    killed_while_writing(folder, random.Random(seed).uniform(0, 0.15), pairs_file, tokenizer)
    for path in folder.glob("*.ckpt"):
        saved = torch.load(path, weights_only=True)
        assert saved["global_step"] >= 1
        assert all(value.isfinite().all() for value in saved["state_dict"].values())
    assert (folder / "last.ckpt").exists()
