import os

import pytest
from omegaconf import OmegaConf

from lightning_dpo.runs import slurm
from lightning_dpo.runs.single_run import single_run


@pytest.fixture
def requeued(monkeypatch):
    for name, value in {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_RESTART_COUNT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_JOB_NAME", raising=False)


@pytest.mark.parametrize(
    ("given", "saved", "resumed"), [(None, True, "last"), (None, False, None), ("last_if_any", False, None)]
)
def test_a_requeued_job_resumes_by_itself(tmp_path, requeued, given, saved, resumed):
    (tmp_path / "checkpoints").mkdir()
    if saved:
        (tmp_path / "checkpoints" / "last.ckpt").touch()
    settings = {"run_folder": str(tmp_path), "ckpt_path": given, "sweep_folder": None, "resume": {"allow": []}}
    config = OmegaConf.create(settings)
    seen = []
    assert single_run(lambda config: seen.append(config.ckpt_path) or 0.5, config) == 0.5
    assert seen == [resumed]


def test_a_run_that_was_finished_before_is_not_repeated(tmp_path, requeued):
    (tmp_path / "metrics.json").write_text('{"val/loss": 0.25}')
    settings = {"run_folder": str(tmp_path), "ckpt_path": None, "sweep_folder": None, "sweep_objective": "val/loss"}
    settings["resume"] = {"allow": []}
    assert single_run(lambda config: pytest.fail("it is trained again"), OmegaConf.create(settings)) == 0.25


def test_the_job_is_put_into_the_queue_by_scontrol(tmp_path, requeued, monkeypatch, caplog):
    program = tmp_path / "scontrol"
    program.write_text(f"#!/bin/sh\necho $@ > {tmp_path}/called\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    slurm.requeue()
    assert (tmp_path / "called").read_text() == "requeue 7\n"
    monkeypatch.setenv("PATH", "")
    slurm.requeue()
    assert "The SLURM job 7 could not be requeued" in caplog.text
