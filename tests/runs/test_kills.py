"""Kills and signals that end a run, and what the same command leaves afterwards. `benchmarks/kills.py` tries all."""

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.kills import SETUPS, Setup, Signal, Write, differences, results, run

TWO = SETUPS["2 ranks, accumulation 2, LoRA with dropout"]


def undisturbed(folder: Path, setup: Setup) -> dict[str, Any]:
    assert run(folder, setup) == [0] * setup.ranks, (folder / "output0.txt").read_text()
    return results(folder)


def check_resumed(folder: Path, setup: Setup, expected: dict[str, Any]) -> None:
    """The same command ends the run as if it had not been disturbed."""
    assert run(folder, setup) == [0] * setup.ranks, (folder / "output0.txt").read_text()
    assert differences(results(folder), expected) == []


@pytest.mark.parametrize(
    ("setup", "file", "moment"),
    [
        ("LoRA with dropout", "metrics.csv", "within an append to"),
        ("TMPDIR on another file system", "last.ckpt", "before"),
    ],
)
def test_a_killed_run_ends_like_one_that_was_not(tmp_path, setup, file, moment):
    expected = undisturbed(tmp_path / "undisturbed", SETUPS[setup])
    assert run(tmp_path / "killed", SETUPS[setup], (Write(file, moment), 2)) == [-signal.SIGKILL]
    check_resumed(tmp_path / "killed", SETUPS[setup], expected)


def test_a_signal_to_one_of_two_ranks_stops_both_after_the_same_step(tmp_path):
    expected = undisturbed(tmp_path / "undisturbed", TWO)
    moments = {
        signal.SIGTERM: ((1,), "DPOModule.training_step", 6),
        signal.SIGUSR1: ((0,), "DPOModule.validation_step", 2),
    }
    for number, (ranks, function, call) in moments.items():
        folder = tmp_path / number.name
        assert run(folder, TWO, signal_at=Signal(number, ranks, "module", function, call)) == [128 + number] * 2
        assert f"Stopped by {number.name}: saved at step" in (folder / "output0.txt").read_text()
        check_resumed(folder, TWO, expected)
