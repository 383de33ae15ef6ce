import os
import tempfile
from pathlib import Path

import lightning
import pytest
import torch

from lightning_dpo import DPOModule, PreferenceDataModule
from lightning_dpo.callbacks import BestCheckpoint, LastCheckpoint
from lightning_dpo.errors import UserError
from tests.support.models import make_llama
from tests.support.ranks import on_ranks


def fit(folder, pairs_file, tokenizer, *callbacks, resumed_from=None, last=None, **options) -> DPOModule:
    """Nineteen pairs, two to a micro-batch, six to a step: an epoch of four steps, then five pairs of validation."""
    last = last or LastCheckpoint(str(folder))
    options = {"max_epochs": 1, "accumulate_grad_batches": 3, "num_sanity_val_steps": 0} | options
    trainer = lightning.Trainer(
        logger=False, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
        callbacks=[*callbacks, last], **options,
    )  # fmt: skip
    data = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, batch_size=2, val_fraction=0.2)
    module = DPOModule(make_llama(), optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-2))
    trainer.fit(module, data, ckpt_path=resumed_from, weights_only=True)
    return module


def step_of(path: Path) -> int | None:
    return torch.load(path, weights_only=True)["global_step"] if path.exists() else None


class OnDisk(lightning.Callback):
    """What `last.ckpt` holds when a micro-batch begins, and at the end."""

    def __init__(self, folder: Path) -> None:
        self.path, self.steps = folder / "last.ckpt", []

    def on_train_batch_end(self, trainer, *_):
        self.steps.append(step_of(self.path))

    def on_fit_end(self, *_):
        self.steps.append(step_of(self.path))


@pytest.mark.parametrize(
    ("last", "options", "steps"),
    [
        ({"every_n_steps": 2}, {}, [None] * 6 + [2] * 4 + [4]),
        ({"every_minutes": 1e-9}, {}, [None] * 3 + [1] * 3 + [2] * 3 + [3] + [4]),
        ({}, {}, [None] * 10 + [4]),
        ({}, {"val_check_interval": 6}, [None] * 6 + [2] * 4 + [4]),
        ({}, {"val_check_interval": 4}, [None] * 6 + [2] * 3 + [3] + [4]),  # within a step: after that step
        ({}, {"limit_val_batches": 0, "max_steps": 3}, [None] * 9 + [3]),
    ],
)
def test_when_last_is_written(tmp_path, pairs_file, tokenizer, last, options, steps):
    seen = OnDisk(tmp_path)
    fit(tmp_path, pairs_file, tokenizer, seen, last=LastCheckpoint(str(tmp_path), **last), **options)
    assert seen.steps == steps


def test_the_one_before_is_kept(tmp_path, pairs_file, tokenizer):
    fit(tmp_path, pairs_file, tokenizer, last=LastCheckpoint(str(tmp_path), every_n_steps=3))
    assert (step_of(tmp_path / "last.ckpt"), step_of(tmp_path / "last.previous.ckpt")) == (4, 3)


class FailsOnce(lightning.Callback):
    """Raises in one hook, the given time that it is called."""

    def __init__(self, hook: str, call: int) -> None:
        self.calls = 0

        def failing(*_):
            self.calls += 1
            if self.calls == call:
                raise OSError("no space left")

        setattr(self, hook, failing)


@pytest.mark.parametrize(
    ("hook", "call", "every", "saved"),
    [
        ("on_before_backward", 3, 10, None),  # in the first step
        ("on_before_backward", 5, 10, 1),  # in the middle of the second
        ("on_before_optimizer_step", 3, 6, 2),
        ("on_validation_start", 2, 6, 6),
        ("on_validation_batch_start", 1, 6, 2),
        ("on_validation_batch_end", 5, 6, 6),  # in the second epoch
        ("on_validation_epoch_end", 1, 10, 4),
    ],
)
def test_an_exception_loses_no_finished_step(tmp_path, pairs_file, tokenizer, hook, call, every, saved):
    """The resumed run validates as often, chooses as well, and ends with the same weights."""
    ends, scores = [], []
    options = {"max_epochs": 2, "val_check_interval": every}
    for name, callbacks in (("straight", []), ("failed", [FailsOnce(hook, call)])):
        folder = tmp_path / name
        best = BestCheckpoint(str(folder), "val/loss", "min")
        if callbacks:
            with pytest.raises(OSError, match="no space left"):
                fit(folder, pairs_file, tokenizer, *callbacks, best, **options)
            assert step_of(folder / "last.ckpt") == saved
        last = str(folder / "last.ckpt") if saved and callbacks else None
        best = BestCheckpoint(str(folder), "val/loss", "min")
        module = fit(folder, pairs_file, tokenizer, best, resumed_from=last, **options)
        ends.append(module.policy.state_dict())
        scores.append((best.best_model_score, best.current_score))
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    assert scores[0] == scores[1]


def test_weights_that_are_half_updated_are_not_saved(tmp_path, pairs_file, tokenizer):
    class Torn(torch.optim.SGD):
        def step(self, closure):
            closure()
            raise OSError("no space left")

    module = DPOModule(make_llama(), optimizer=lambda parameters: Torn(parameters, lr=1e-3))
    data = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, batch_size=2, val_fraction=0.2)
    trainer = lightning.Trainer(
        logger=False, accelerator="cpu", enable_progress_bar=False, callbacks=[LastCheckpoint(str(tmp_path))]
    )
    with pytest.raises(OSError, match="no space left"):
        trainer.fit(module, data)
    assert not list(tmp_path.glob("*.ckpt"))


def test_checkpoints_do_not_pass_through_tmpdir(tmp_path, pairs_file, tokenizer, monkeypatch):
    """It may be on another file system, from which a file is copied, not renamed."""
    monkeypatch.setattr(tempfile, "mkstemp", lambda *args, **options: pytest.fail("a temporary file elsewhere"))
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["nowhere"])
    best = BestCheckpoint(str(tmp_path), "val/loss", "min")
    fit(tmp_path, pairs_file, tokenizer, best)
    assert {path.name for path in tmp_path.glob("*.ckpt")} == {"last.ckpt", "best.ckpt"}


def test_a_folder_that_is_not_writable_is_rejected_before_training(tmp_path, pairs_file, tokenizer):
    folder = tmp_path / "checkpoints"
    folder.mkdir(mode=0o555)
    (message,) = on_ranks(1, _refused, folder, pairs_file, tokenizer)
    assert message == f"callbacks.last.folder={folder}: checkpoints cannot be written there (Permission denied)"


def _refused(folder: Path, pairs_file: Path, tokenizer) -> str:
    for path in (*folder.parents[:3], pairs_file):
        path.chmod(0o755)
    trainer = lightning.Trainer(logger=False, accelerator="cpu", callbacks=[LastCheckpoint(str(folder))])
    data = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer)
    data.setup("fit")
    if os.getuid() == 0:
        os.setuid(65534)  # root may write anywhere
    with pytest.raises(UserError) as error:
        trainer.fit(DPOModule(make_llama()), data)
    return str(error.value)


def test_rejects_an_interval_that_is_not_one(tmp_path):
    with pytest.raises(ValueError, match="every_n_steps must be at least 1, got 0"):
        LastCheckpoint(str(tmp_path), every_n_steps=0)
    with pytest.raises(ValueError, match="every_minutes must be positive, got 0"):
        LastCheckpoint(str(tmp_path), every_minutes=0)
