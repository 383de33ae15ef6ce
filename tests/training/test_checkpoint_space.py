import shutil
from collections import namedtuple
from pathlib import Path

import lightning
import pytest

from lightning_dpo import DPOModule, PreferenceDataModule, UserError
from lightning_dpo.callbacks import BestCheckpoint, LastCheckpoint
from lightning_dpo.models import LoRA
from lightning_dpo.training.checkpoint_space import check_space
from tests.support.models import make_llama

Usage = namedtuple("Usage", "total used free")


def fit(folder: Path, pairs_file: Path, tokenizer, adapter) -> DPOModule:
    data = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, batch_size=5, val_fraction=0.2)
    module = DPOModule(make_llama(hidden_size=128, intermediate_size=256), adapter=adapter)
    callbacks = [BestCheckpoint(str(folder), "val/loss", "min"), LastCheckpoint(str(folder), every_n_steps=1)]
    lightning.Trainer(
        max_epochs=1, logger=False, accelerator="cpu", enable_progress_bar=False, callbacks=callbacks
    ).fit(module, data)  # fmt: skip
    return module


@pytest.mark.parametrize("adapter", [None, LoRA(r=16)])
def test_the_estimate_is_what_the_files_need(tmp_path, pairs_file, tokenizer, monkeypatch, adapter):
    module = fit(tmp_path / "run", pairs_file, tokenizer, adapter)
    written = sum(path.stat().st_size for path in (tmp_path / "run").glob("*.ckpt"))
    largest = (tmp_path / "run" / "last.ckpt").stat().st_size  # the one that is being written
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 0))
    (tmp_path / "new").mkdir()
    message = check_space(module, tmp_path / "new", keep=1)
    assert "set callbacks.last.keep=0" in message
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, written + largest))
    assert check_space(module, tmp_path / "new", keep=1) == ""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 0.8 * (written + largest)))
    assert check_space(module, tmp_path / "new", keep=1)


def test_a_run_whose_checkpoints_do_not_fit_is_rejected_before_its_first_step(
    tmp_path, pairs_file, tokenizer, monkeypatch
):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 1000))
    with pytest.raises(
        UserError, match=r"has 0.0 MB of free disk space, and the checkpoints need [0-9.]+ MB: last.ckpt"
    ):
        fit(tmp_path, pairs_file, tokenizer, None)
    assert not list(tmp_path.glob("*.ckpt"))
