import csv

import pytest

from lightning_dpo.reports.runs import read_runs
from lightning_dpo.reports.tables import Table, runs_table, seeds_table, write_csv
from tests.support.fake_runs import fake_run


@pytest.fixture
def runs(tmp_path):
    """Two settings; three seeds of the first."""
    for seed, accuracy in enumerate((0.60, 0.65, 0.70)):
        metrics = {"val/rewards/accuracies": accuracy, "val/kl": 1.0, "val/kl_stderr": 0.1}
        fake_run(tmp_path, f"{seed}", ["loss.beta=0.1", f"seed={seed}"], metrics)
    fake_run(tmp_path, "3", ["loss.beta=0.2", "seed=0"], {"val/rewards/accuracies": 0.8})
    fake_run(tmp_path, "4", ["loss.beta=0.2", "seed=1"], error="it | broke")
    return read_runs(tmp_path)


def test_every_run_has_a_row(runs):
    table = runs_table(runs)
    columns = ["run", "state", "loss.beta", "seed", "accuracy ↑", "KL(π‖π_ref) on samples, nats", "minutes"]
    assert table.columns == columns
    assert table.rows[0] == ["0", "finished", "0.1", "0", "0.600 ± 0.048", "1.00 ± 0.20", "1.5"]
    assert table.rows[4] == ["4", "failed", "0.2", "1", "", "", ""]
    assert table.marks == ["", "", "", "best", "failed"]


def test_means_over_seeds(runs):
    table = seeds_table(runs)
    assert table.columns == ["loss.beta", "seeds", "accuracy ↑", "KL(π‖π_ref) on samples, nats"]
    assert table.rows == [["0.1", "3", "0.65 ± 0.12", "1.000"], ["0.2", "1", "0.8000", ""]]
    assert seeds_table(runs[3:]) is None


def test_the_csv_has_everything(runs, tmp_path):
    write_csv(runs, tmp_path / "sweep.csv")
    with (tmp_path / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["val/rewards/accuracies"] for row in rows] == ["0.6", "0.65", "0.7", "0.8", ""]
    assert rows[4]["error"] == "it | broke"
    assert rows[2]["seed"] == "2"


def test_a_cell_is_not_markup():
    table = Table(["a"], [["x | <b>\n![](http://a)"]])
    assert table.markdown() == "| a |\n| --- |\n| x \\| &lt;b> !\\[\\](http://a) |\n"
