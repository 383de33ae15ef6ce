import math

import pytest

from lightning_dpo.reports.intervals import wilson
from lightning_dpo.reports.runs import by_all_but_the_seed, differing, label, read_runs
from lightning_dpo.runs.state import RunState
from tests.support.fake_runs import fake_run


def test_runs_are_read_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 9, 2):
        fake_run(tmp_path, f"{number}_beta-0.{number}", [f"loss.beta=0.{number}"], {"val/loss": 0.5})
    (tmp_path / "attempt").mkdir()
    assert [run.folder.name for run in read_runs(tmp_path)] == ["2_beta-0.2", "9_beta-0.9", "10_beta-0.10"]


def test_states_and_settings(tmp_path):
    same = ["data=hh", "sweep=beta", "run_name=x"]
    fake_run(tmp_path, "0", [*same, "loss.beta=0.1"], {"val/loss": 0.5, "steps": 3})
    fake_run(tmp_path, "1", [*same, "loss.beta=0.2", "+trainer.x=1"], error="no room")
    fake_run(tmp_path, "2", [*same, "loss.beta=0.2"])
    runs = read_runs(tmp_path)
    assert [run.state for run in runs] == [RunState.FINISHED, RunState.FAILED, RunState.INTERRUPTED]
    assert [run.error for run in runs] == ["", "no room", ""]
    assert differing(runs) == ["loss.beta", "trainer.x"]
    assert label(runs[0], differing(runs)) == "β 0.1"
    assert (runs[0].metrics["val/loss"], runs[0].pairs) == (0.5, 400)


def test_errors_are_those_that_a_run_knows_of_itself(tmp_path):
    fake_run(tmp_path, "0", [], {"val/rewards/accuracies": 0.7, "val/kl": 2.0, "val/kl_stderr": 0.5, "val/loss": 0.5})
    (run,) = read_runs(tmp_path)
    low, high = wilson(0.7, 400)
    assert run.error_of("val/rewards/accuracies") == pytest.approx((high - low) / 2)
    assert run.error_of("val/kl") == pytest.approx(0.98)
    assert math.isnan(run.error_of("val/loss"))


def test_the_share_of_the_frontiers_reward(tmp_path):
    known = {"closed_form/reward": 1.5, "closed_form/reference_reward": -0.5, "closed_form/frontier_reward": 2.0}
    fake_run(tmp_path, "0", [], known)
    assert read_runs(tmp_path)[0].metrics["closed_form/frontier_share"] == pytest.approx(0.8)


def test_seeds_are_brought_together(tmp_path):
    for number, (beta, seed) in enumerate([(0.1, 0), (0.1, 1), (0.2, 0), (0.2, 1), (0.2, 2)]):
        fake_run(tmp_path, str(number), [f"loss.beta={beta}", f"seed={seed}"], {"val/loss": 0.5})
    fake_run(tmp_path, "5", ["loss.beta=0.2", "seed=3"], error="x")
    fake_run(tmp_path, "6", ["loss.beta=2e-1", "seed=2"], {"val/loss": 0.7})  # once more, written otherwise
    groups = by_all_but_the_seed(read_runs(tmp_path))
    assert [[run.folder.name for run in group] for group in groups] == [["0", "1"], ["2", "3", "6"]]


def test_a_run_done_twice_is_not_a_second_seed(tmp_path):
    for name in ("a", "b"):
        fake_run(tmp_path, name, [], {"val/loss": 0.5})
    assert [[run.folder.name for run in group] for group in by_all_but_the_seed(read_runs(tmp_path))] == [["b"]]
