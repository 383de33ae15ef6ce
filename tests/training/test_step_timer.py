import csv
import time

import lightning
from lightning.pytorch.loggers import CSVLogger

from lightning_dpo import DPOModule, PreferenceDataModule
from lightning_dpo.callbacks.throughput import Throughput
from lightning_dpo.train import train
from lightning_dpo.training.step_timer import PARTS, PartTimes
from tests.support.compose import composed
from tests.support.models import make_llama
from tests.support.training import small


def test_time_within_another_part_is_not_counted_twice(monkeypatch):
    """By hand: the optimizer's step holds the training step, which holds the reference; each reading is a second."""
    seconds = iter([0, 1, 1, 3, 3, 6, 6, 10, 10, 15])
    monkeypatch.setattr(time, "perf_counter", lambda: next(seconds))
    times = PartTimes()
    with times.profile("[LightningModule]DPOModule.optimizer_step"):
        with times.profile("[Strategy]Single.training_step"), times.profile("reference"):
            pass
        with times.profile("[Callback]Something.on_train_start"):
            pass
    assert times.take() == {"forward": 2 + 4, "reference": 3, "backward": 0, "optimizer": 1 + 5, "data": 0}
    assert set(times.take().values()) == {0}


class SlowForward(DPOModule):
    def training_step(self, batch, batch_idx):
        time.sleep(0.05)
        return super().training_step(batch, batch_idx)


def test_parts_of_every_step_are_logged(tmp_path, pairs_file, tokenizer):
    trainer = lightning.Trainer(
        max_epochs=1, logger=CSVLogger(tmp_path), enable_checkpointing=False, accelerator="cpu",
        callbacks=[Throughput()], enable_progress_bar=False, log_every_n_steps=1, profiler=PartTimes(),
    )  # fmt: skip
    data = PreferenceDataModule(str(pairs_file), tokenizer=tokenizer, batch_size=6, val_fraction=0.2)
    trainer.fit(SlowForward(make_llama()), data)
    trainer.logger.save()
    with open(f"{trainer.logger.log_dir}/metrics.csv") as file:
        steps = [row for row in csv.DictReader(file) if row["train/pairs_per_second"]]
    assert len(steps) == 4
    for step in steps[1:]:
        parts = {part: float(step[f"train/seconds/{part}"]) for part in PARTS}
        whole = float(step["train/pairs_per_second"]) ** -1 * (6 if step is not steps[-1] else 2)
        assert all(seconds > 0 for seconds in parts.values())
        # How much of a step lies between the parts depends on the load of the machine, but the parts never overlap.
        assert 0.05 < parts["forward"] < sum(parts.values()) < whole
        assert sum(parts.values()) < whole * 1.05


def test_the_parts_of_every_step_are_timed_on_request(tmp_path, model_folder, hh_file):
    folder = tmp_path / "run"
    folder.mkdir()
    train(composed(folder, "model=llama", "data=hh", *small(model_folder, hh_file, "logger=csv"), "+profile=true"))
    with (folder / "metrics.csv").open(newline="") as file:
        steps = [row for row in csv.DictReader(file) if row["train/loss"]]
    for part in ("forward", "reference", "backward", "optimizer", "data"):
        assert all(0 < float(step[f"train/seconds/{part}"]) < 60 for step in steps), part
