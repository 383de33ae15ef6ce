import csv
import json

import pytest

from lightning_dpo.train import train
from tests.support.compose import composed


@pytest.mark.extended
@pytest.mark.timeout(600)
def test_dpo_ends_near_the_frontier_where_it_is_hardest(tmp_path):
    """`sweep=beta`'s weakest pull to the reference, at full length: 0.95 of the reward that its KL can buy."""
    train(composed(tmp_path, "loss.beta=0.1", "logger=csv", "trainer.accelerator=cpu", "callbacks.samples=null"))
    found = json.loads((tmp_path / "metrics.json").read_text())
    names = ("reward", "reference_reward", "frontier_reward", "kl_reference")
    reward, start, possible, kl = (found[f"closed_form/{name}"] for name in names)
    assert 0.95 <= (reward - start) / (possible - start) <= 1
    # What is drawn is what was measured against.
    with (tmp_path / "frontier.csv").open(newline="") as file:
        rows = [(float(row["kl"]), float(row["reward"])) for row in csv.DictReader(file)]
    below = max(row for row in rows if row[0] <= kl)
    above = min(row for row in rows if row[0] > kl)
    share = (kl - below[0]) / (above[0] - below[0])
    assert below[1] + share * (above[1] - below[1]) == pytest.approx(possible, abs=1e-2)
