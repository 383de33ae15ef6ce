import pytest
import torch

from lightning_dpo import DPOModule, PreferenceDataModule, UserError
from lightning_dpo.callbacks import memory
from lightning_dpo.callbacks.memory import MemoryCheck
from tests.support.models import make_llama
from tests.support.training import sgd, trainer_for


def fit(folder, pairs_file, tokenizer, optimizer=sgd):
    data = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, batch_size=6, val_fraction=0.2)
    trainer = trainer_for(folder, callbacks=[MemoryCheck()])
    trainer.fit(DPOModule(make_llama(), optimizer=optimizer), data)
    return data


def test_the_estimate_is_logged_and_what_will_not_fit_is_warned_of(
    tmp_path, pairs_file, tokenizer, caplog, monkeypatch
):
    with caplog.at_level("INFO"):
        data = fit(tmp_path, pairs_file, tokenizer)
    assert "Memory estimate: weights 0.1 MB, gradients 0.1 MB" in caplog.text
    assert "may not fit" not in caplog.text
    streams = sorted(len(row["prompt_ids"] + row["chosen_ids"] + row["rejected_ids"]) for row in data.train_pairs)
    assert data.largest_batch()[0] == sum(streams[-6:])
    monkeypatch.setattr(memory, "device_memory", lambda device: 1000)
    fit(tmp_path, pairs_file, tokenizer)
    assert "A step might not fit into memory. These settings reduce it most: " in caplog.text


class Exhausted(torch.optim.SGD):
    """A device without memory, simulated."""

    def step(self, closure=None):
        if closure is not None:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().step()


def test_an_out_of_memory_error_contains_advice(tmp_path, pairs_file, tokenizer):
    with pytest.raises(torch.OutOfMemoryError) as caught:
        fit(tmp_path, pairs_file, tokenizer, lambda weights: Exhausted(weights, lr=0.1))
    (note,) = caught.value.__notes__
    assert "the device is out of memory (estimate: weights" in note
    assert note.count("data.") + note.count("model.") + note.count("adapter=") + note.count("optimizer=") == 3


def test_train_reports_it_in_one_sentence():
    from lightning_dpo.train import explained

    error = torch.OutOfMemoryError("CUDA out of memory")
    error.add_note("the device is out of memory")
    with pytest.raises(UserError, match="the device is out of memory"), explained():
        raise error
    with pytest.raises(RuntimeError, match="other"), explained():
        raise RuntimeError("other")
