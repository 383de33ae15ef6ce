import lightning
import pytest
import torch

from lightning_dpo import DPOModule, PreferenceDataModule
from lightning_dpo.callbacks.checkpoints import LastCheckpoint
from tests.conftest import make_llama


def test_last_is_the_last_step_and_loads_without_pickles(tmp_path, pairs_file, tokenizer):
    """Nineteen pairs, two to a micro-batch, six to a step: four steps, saved after the second and the last."""
    steps = []

    class Watch(LastCheckpoint):
        def _save(self, trainer):
            before = self._saved_step
            super()._save(trainer)
            if self._saved_step != before:
                batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready
                steps.append((torch.load(self.path, weights_only=True)["global_step"], batches))

    trainer = lightning.Trainer(
        max_epochs=1, accumulate_grad_batches=3, logger=False, enable_checkpointing=False, accelerator="cpu",
        callbacks=[Watch(str(tmp_path), every_n_steps=2)], enable_progress_bar=False,
    )  # fmt: skip
    data = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, batch_size=2, val_fraction=0.2)
    trainer.fit(DPOModule(make_llama()), data)
    assert steps == [(2, 6), (4, 10)]


def test_refuses_a_rhythm_that_is_none(tmp_path):
    with pytest.raises(ValueError, match="every_n_steps must be at least 1, got 0"):
        LastCheckpoint(str(tmp_path), every_n_steps=0)
