"""Kills and signals that end a run, and what the same command leaves afterwards. `benchmarks/kills.py` tries all."""

import signal

import pytest

from tests.support.kills import SETUPS, Setup, Signal, Write, differences, results, run

ONE, LORA = SETUPS["one micro-batch a step"], SETUPS["LoRA with dropout"]
TWO = SETUPS["2 ranks, accumulation 2, LoRA with dropout"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The results of a run of each configuration, when they are needed."""
    known: dict[Setup, dict] = {}

    def of(setup: Setup) -> dict:
        if setup not in known:
            folder = tmp_path_factory.mktemp("undisturbed")
            assert run(folder, setup) == [0] * setup.ranks, (folder / "output0.txt").read_text()
            known[setup] = results(folder)
        return known[setup]

    return of


@pytest.mark.parametrize(
    ("setup", "file", "moment", "number"),
    [
        (ONE, "last.ckpt", "before", 2),
        (ONE, "metrics.csv", "within an append to", 2),
        (ONE, "export", "after", 1),
        (LORA, "last.ckpt", "after", 2),
        (TWO, "last.ckpt", "after", 2),
    ],
)
def test_a_killed_run_ends_like_one_that_was_not(tmp_path, undisturbed, setup, file, moment, number):
    assert -signal.SIGKILL in run(tmp_path, setup, (Write(file, moment), number))
    assert run(tmp_path, setup) == [0] * setup.ranks, (tmp_path / "output0.txt").read_text()
    assert differences(results(tmp_path), undisturbed(setup)) == []


@pytest.mark.parametrize(
    ("number", "ranks", "function", "call"),
    [
        (signal.SIGTERM, (1,), "DPOModule.training_step", 6),
        (signal.SIGUSR1, (0,), "DPOModule.validation_step", 2),
    ],
)
def test_a_signal_to_one_rank_stops_all_after_the_same_step(tmp_path, undisturbed, number, ranks, function, call):
    assert run(tmp_path, TWO, signal_at=Signal(number, ranks, "module", function, call)) == [128 + number] * 2
    assert f"Stopped by {signal.Signals(number).name}: saved at step" in (tmp_path / "output0.txt").read_text()
    assert run(tmp_path, TWO) == [0, 0]
    assert differences(results(tmp_path), undisturbed(TWO)) == []
