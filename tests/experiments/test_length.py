"""experiment=length: a short run, and the picture and table of finished ones."""

import csv
import json

from experiments.length.plot import draw, runs_of, table
from lightning_dpo.train import train
from tests.support.compose import composed

SHORT = [
    "model.teaching_steps=60", "data.rows.pairs=512", "data.rows.val_pairs=64", "trainer.max_epochs=1", "logger=csv",
    "trainer.accelerator=cpu", "callbacks.samples=null",
]  # fmt: skip


def test_a_run_reports_lengths_and_accuracy_on_true_rewards(tmp_path):
    train(composed(tmp_path, "experiment=length", "model.lengths=[1,3]", *SHORT))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert 1 < metrics["closed_form/reference_words"] < 3
    assert 1 < metrics["closed_form/words"] < 3
    assert 0 < metrics["closed_form/reward_accuracy"] < 1
    assert "closed_form/best_accuracy" not in metrics


def test_the_picture_and_the_table_show_every_finished_run(tmp_path):
    names = ("words", "reference_words", "reward_accuracy", "reward", "kl_reference", "mass_on_reviews")
    for loss, count in (("dpo", 2), ("r_dpo", 1)):
        folder = tmp_path / f"length-{loss}" / "now"
        folder.mkdir(parents=True)
        with (folder / "sweep.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["run", "state", *(f"closed_form/{name}" for name in names)])
            writer.writerows([f"{n}_beta-{n}", "finished", 3.0, 2.5, 0.8, 1.0, 0.5 + n, 0.9] for n in range(count))
            writer.writerow(["9_beta-9", "failed", *[""] * len(names)])
    runs = runs_of(tmp_path)
    assert [(run.loss, run.setting, run.kl) for run in runs] == [
        ("dpo", "beta-0", 0.5), ("dpo", "beta-1", 1.5), ("r_dpo", "beta-0", 0.5),
    ]  # fmt: skip
    assert table(runs).splitlines()[2] == "| `dpo` | beta-0 | 3.00 | 0.80 | 1.00 | 0.50 | 0.90 |"
    draw(runs, tmp_path / "length.png")
    assert (tmp_path / "length.png").stat().st_size > 10_000
