import sys
import time
from types import SimpleNamespace

import lightning
import psutil
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from lightning_dpo import DPOModule, PreferenceDataModule
from lightning_dpo.callbacks.throughput import Throughput, peak_memory
from lightning_dpo.training.flops import MatrixWork
from tests.support.models import make_llama


@pytest.mark.parametrize("layout", ["padded", "shared"])
def test_rates_are_pairs_and_tokens_over_the_time_of_a_step(tmp_path, pairs_file, tokenizer, monkeypatch, layout):
    """Every reading of the clock is one second later: a step takes one second, and validation none."""
    clock = iter(range(1000))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr("lightning_dpo.callbacks.throughput.matrix_rate", lambda *_: 1e6)
    sizes, rates, work = [], [], []

    class Watch(lightning.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            sizes.append((batch.input_ids.numel(), int(batch.tokens)))
            model = MatrixWork(pl_module.policy)
            work.append(model.forward(batch) + model.backward(batch))
            if "train/pairs_per_second" in trainer.callback_metrics and trainer.global_step > len(rates):
                rates.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    trainer = lightning.Trainer(
        max_epochs=1, accumulate_grad_batches=2, logger=CSVLogger(tmp_path), enable_checkpointing=False,
        accelerator="cpu", callbacks=[Throughput(), Watch()], enable_progress_bar=False, log_every_n_steps=1,
    )  # fmt: skip
    data = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, batch_size=3, val_fraction=0.2, layout=layout)
    monkeypatch.setattr(trainer.profiler, "start", lambda *args: None)
    monkeypatch.setattr(trainer.profiler, "stop", lambda *args: None)
    trainer.fit(DPOModule(make_llama()), data)
    assert [rate["train/pairs_per_second"] for rate in rates] == pytest.approx([6, 6, 6, 1])
    steps = [slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 7)]
    positions = [sum(size for size, _ in sizes[step]) for step in steps]
    real = [sum(tokens for _, tokens in sizes[step]) for step in steps]
    assert [rate["train/tokens_per_second"] for rate in rates] == pytest.approx(positions)
    pads = [1 - some / every for some, every in zip(real, positions, strict=True)]
    assert [rate["train/padding_fraction"] for rate in rates] == pytest.approx(pads)
    assert (max(pads) > 0) == (layout == "padded")
    # Forward and backward of the policy, of a machine that multiplies a million numbers in a second. The reference is
    # cached.
    shares = [sum(work[step]) / 1e6 for step in steps]
    assert [rate["train/measured_rate_share"] for rate in rates] == pytest.approx(shares)
    assert 0.05 < rates[-1]["train/peak_memory_gb"] < 100


def test_peak_memory_without_the_module_resource(monkeypatch):
    """As on Windows, where psutil reports the peak of the working set."""
    monkeypatch.setitem(sys.modules, "resource", None)
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=123))
    monkeypatch.setattr(psutil, "Process", lambda: process)
    assert peak_memory(torch.device("cpu")) == 123
