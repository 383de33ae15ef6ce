import time

import lightning
import pytest
from lightning.pytorch.loggers import CSVLogger

from lightning_dpo import DPOModule, PreferenceDataModule
from lightning_dpo.callbacks.throughput import Throughput
from tests.conftest import make_llama


def test_rates_are_pairs_and_tokens_over_the_time_of_a_step(tmp_path, pairs_file, tokenizer, monkeypatch):
    """Every reading of the clock is one second later: a step takes one second, and validation none."""
    clock = iter(range(1000))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    sizes, rates = [], []

    class Watch(lightning.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            sizes.append(batch.input_ids.numel())
            if "train/pairs_per_second" in trainer.callback_metrics and trainer.global_step > len(rates):
                rates.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    trainer = lightning.Trainer(
        max_epochs=1, accumulate_grad_batches=2, logger=CSVLogger(tmp_path), enable_checkpointing=False,
        accelerator="cpu", callbacks=[Throughput(), Watch()], enable_progress_bar=False, log_every_n_steps=1,
    )  # fmt: skip
    data = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, batch_size=3, val_fraction=0.2)
    monkeypatch.setattr(trainer.profiler, "start", lambda *args: None)
    monkeypatch.setattr(trainer.profiler, "stop", lambda *args: None)
    trainer.fit(DPOModule(make_llama()), data)
    assert [rate["train/pairs_per_second"] for rate in rates] == pytest.approx([6, 6, 6, 1])
    steps = [sum(sizes[:2]), sum(sizes[2:4]), sum(sizes[4:6]), sizes[6]]
    assert [rate["train/tokens_per_second"] for rate in rates] == pytest.approx(steps)
