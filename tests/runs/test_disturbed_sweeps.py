"""Sweeps that are killed, fail in a job, or run at the same time as another one."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from omegaconf import OmegaConf

from tests.support.command import TINY, command


def jobs(sweep) -> list[str]:
    return sorted(path.name for path in sweep.iterdir() if path.is_dir())


@pytest.mark.extended
def test_a_sweep_that_was_killed_between_jobs_is_finished_by_the_same_command(tmp_path):
    overrides = ("-m", "loss.beta=0.1,0.5,1", *TINY, "sweep_folder=sweep")
    status, _ = command(tmp_path, *overrides, kill_before_job=1)
    assert status == -9
    first = tmp_path / "sweep" / "0_beta-0.1" / "metrics.json"
    finished = first.stat().st_mtime_ns
    status, output = command(tmp_path, *overrides)
    assert status == 0
    assert output.count("is finished and is skipped") == 1
    assert first.stat().st_mtime_ns == finished
    assert jobs(tmp_path / "sweep") == ["0_beta-0.1", "1_beta-0.5", "2_beta-1"]
    for name in jobs(tmp_path / "sweep"):
        job = tmp_path / "sweep" / name
        assert json.loads((job / "metrics.json").read_text())["steps"] == 2
        assert f"beta-{OmegaConf.load(job / 'config.yaml').loss.beta:g}" in name
    report = (tmp_path / "sweep" / "report.md").read_text()
    assert "3 runs: 3 finished." in report
    assert "1\\_beta-0.5 | finished | 0.5 |" in report  # after a star if it is the best


def test_a_failed_job_is_recorded_and_only_it_is_repeated(tmp_path, model_folder, hh_file):
    """The file of the second job comes too late for the first attempt."""
    options = ("model=llama", f"model.name={model_folder}", "data=hh", "logger=csv", "trainer.accelerator=cpu")
    options += ("data.pairs_per_step=4", "data.batch_size=2", "data.val_fraction=0.2", "trainer.max_steps=1")
    options += ("callbacks.samples.max_new_tokens=2", "sweep_folder=sweep")
    shutil.copy(hh_file, tmp_path / "early.jsonl")
    shutil.copy(hh_file, tmp_path / "last.jsonl")
    overrides = ("-m", "data.path=early.jsonl,late.jsonl,last.jsonl", *options)
    status, output = command(tmp_path, *overrides)
    assert status == 1
    assert output.splitlines()[-1].startswith("Error: ")
    assert "1_path-late.jsonl failed: late.jsonl: the file does not exist" in output.splitlines()[-1]
    assert "sweep_folder=" in output.splitlines()[-1]
    failed, last = tmp_path / "sweep" / "1_path-late.jsonl", tmp_path / "sweep" / "2_path-last.jsonl"
    assert (failed / "error.txt").read_text().startswith("late.jsonl: the file does not exist")
    assert (last / "metrics.json").exists()
    assert "3 runs: 2 finished, 1 failed." in (tmp_path / "sweep" / "report.md").read_text()

    shutil.copy(hh_file, tmp_path / "late.jsonl")
    finished = (last / "metrics.json").stat().st_mtime_ns
    status, output = command(tmp_path, *overrides)
    assert status == 0
    assert output.count("is finished and is skipped") == 2
    assert (last / "metrics.json").stat().st_mtime_ns == finished
    assert (failed / "metrics.json").exists()
    assert not (failed / "error.txt").exists()
    assert (failed / "attempt_1" / "error.txt").exists()


@pytest.mark.extended
def test_a_job_that_was_killed_resumes_from_its_last_checkpoint(tmp_path):
    """Killed in its second step of four: the same command does the rest, and ends where an undisturbed one ends."""
    overrides = ("-m", "loss.beta=0.1,0.5", *TINY, "trainer.max_epochs=2", "callbacks.last.every_n_steps=1")
    status, _ = command(tmp_path, *overrides, "sweep_folder=killed", kill_after_steps=2)
    assert status == -9
    status, output = command(tmp_path, *overrides, "sweep_folder=killed")
    assert status == 0
    assert output.count("0_beta-0.1 is interrupted and resumes from its last checkpoint.") == 1
    assert command(tmp_path, *overrides, "sweep_folder=undisturbed")[0] == 0
    weights = [
        (tmp_path / sweep / "0_beta-0.1" / "export" / "model.safetensors").read_bytes()
        for sweep in ("killed", "undisturbed")
    ]
    assert weights[0] == weights[1]


@pytest.mark.extended
def test_two_sweeps_at_once_compute_each_completion_once(tmp_path, model_folder, hh_file):
    """Their weights are those of a sweep that has a cache of its own."""
    options = ("model=llama", f"model.name={model_folder}", "data=hh", f"data.path={hh_file}", "data.val_fraction=0.2")
    options += ("data.pairs_per_step=4", "data.batch_size=2", "logger=csv", "trainer.accelerator=cpu")
    overrides = ("-m", "loss.beta=0.1,0.5", *options, "callbacks.samples=null", "sweep_folder=sweep")

    def fills(name: str, cache: str) -> int:
        """How often a sweep computes log-probs of the reference."""
        status, output = command(tmp_path / name, *overrides, f"reference.cache_dir={tmp_path / cache}")
        assert status == 0, output
        return output.count("Computing the log-probs of")

    with ThreadPoolExecutor() as threads:
        sweeps = [threads.submit(fills, name, "both") for name in ("first", "second")]
    assert sorted(sweep.result() for sweep in sweeps) == [0, 1]
    assert fills("undisturbed", "own") == 1
    weights = [
        [path.read_bytes() for path in sorted((tmp_path / name / "sweep").glob("*/export/model.safetensors"))]
        for name in ("first", "second", "undisturbed")
    ]
    assert weights[0] == weights[1] == weights[2]
    assert len(weights[0]) == 2
