import pytest
import torch

from lightning_dpo import DPOModule, PreferenceDataModule, UserError
from lightning_dpo.training import batch_size
from tests.support.models import make_llama
from tests.support.training import sgd, trainer_for


def fit(folder, pairs_file, tokenizer, size, **options):
    module = DPOModule(make_llama(), optimizer=sgd)
    data = PreferenceDataModule(
        str(pairs_file), tokenizer=tokenizer, batch_size=size, pairs_per_step=12, val_fraction=0.2, **options
    )
    trainer = trainer_for(folder, accumulate_grad_batches=1 if size == "auto" else 12 // size)
    trainer.fit(module, data)
    return trainer, module, data


def needed(module, data, size: int) -> int:
    """The estimate for micro-batches of `size` pairs."""
    return module.estimate_memory(*data.largest_batch(size)).total


@pytest.mark.parametrize("chosen", [1, 2, 4, 12])
def test_the_largest_size_that_fits_is_chosen(tmp_path, pairs_file, tokenizer, monkeypatch, chosen):
    """With less memory, the size is smaller, and the result is that of the same size set by hand."""
    _, module, data = fit(tmp_path, pairs_file, tokenizer, chosen, layout="padded")
    memory = needed(module, data, chosen) / 0.85 + 1
    monkeypatch.setattr(batch_size, "device_memory", lambda device: memory)
    trainer, auto, data = fit(tmp_path, pairs_file, tokenizer, "auto", layout="padded")
    assert (data.batch_size, trainer.accumulate_grad_batches) == (chosen, 12 // chosen)
    assert trainer.global_step == 2
    for one, other in zip(module.policy.parameters(), auto.policy.parameters(), strict=True):
        assert torch.equal(one, other)


def test_max_tokens_limits_the_size(tmp_path, pairs_file, tokenizer):
    *_, data = fit(tmp_path, pairs_file, tokenizer, 1, layout="padded")
    limit = data.largest_batch(3)[0]
    *_, data = fit(tmp_path, pairs_file, tokenizer, "auto", layout="padded", max_tokens=limit)
    assert data.batch_size == 3


def test_a_run_resumes_with_the_size_of_its_checkpoint(tmp_path, pairs_file, tokenizer, monkeypatch):
    """Also on a machine with less memory."""
    trainer, *_ = fit(tmp_path, pairs_file, tokenizer, "auto")
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    arguments = {"tokenizer": tokenizer, "batch_size": "auto", "pairs_per_step": 12, "val_fraction": 0.2}
    resumed = trainer_for(tmp_path, max_epochs=2)
    data = PreferenceDataModule(str(pairs_file), **arguments)
    resumed.fit(DPOModule(make_llama(), optimizer=sgd), data, ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert resumed.global_step == 4
    monkeypatch.setattr(batch_size, "device_memory", lambda device: 0)
    data, module = PreferenceDataModule(str(pairs_file), **arguments), DPOModule(make_llama(), optimizer=sgd)
    trainer_for(tmp_path, max_epochs=3).fit(module, data, ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert data.batch_size == 12


@pytest.mark.parametrize("memory", [0, 1e12])
def test_every_fit_chooses_and_counts_whole_steps(tmp_path, pairs_file, tokenizer, monkeypatch, memory):
    monkeypatch.setattr(batch_size, "device_memory", lambda device: memory)
    data = PreferenceDataModule(
        str(pairs_file), tokenizer=tokenizer, batch_size="auto", pairs_per_step=4, val_fraction=0.2
    )
    module = DPOModule(make_llama(), optimizer=sgd)
    for options in ({}, {"fast_dev_run": 2}):
        trainer = trainer_for(tmp_path, **options)
        trainer.fit(module, data)
        assert trainer.accumulate_grad_batches == (4 if memory == 0 else 1)
        assert trainer.global_step == (2 if options else 5)
    trainer_for(tmp_path).validate(module, data)


def test_auto_needs_a_step_and_a_training(tmp_path, pairs_file, tokenizer):
    with pytest.raises(ValueError, match="batch_size=auto needs pairs_per_step"):
        PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, batch_size="auto")
    data = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, batch_size="auto", pairs_per_step=4)
    with pytest.raises(UserError, match=r"data\.batch_size=auto is chosen for training: set a number"):
        trainer_for(tmp_path).validate(DPOModule(make_llama()), data)
