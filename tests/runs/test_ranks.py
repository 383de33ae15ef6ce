import os
import sys
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from lightning_dpo.runs.ranks import new_folder, process_count, process_rank, started_by_others
from tests.support.ranks import on_ranks


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE"):
        monkeypatch.delenv(name, raising=False)
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)


def chosen(port: int, parent: Path) -> str:
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_PORT": str(port)}
    return new_folder(parent).name


def test_torchruns_processes_have_one_folder(tmp_path):
    """The one that the first rank creates, by way of the store of torchrun's agent."""
    agent = TCPStore("localhost", 0, is_master=True)
    names = on_ranks(2, chosen, agent.port, tmp_path)
    assert names[0] == names[1]
    assert [path.name for path in tmp_path.iterdir()] == names[:1]


def test_runs_that_start_in_the_same_second_have_different_folders(tmp_path):
    names = [new_folder(tmp_path).name for _ in range(3)]
    assert len(set(names)) == 3
    assert all((tmp_path / name).is_dir() for name in names)


def test_a_requeued_job_of_slurm_has_its_own_folder_again(tmp_path, monkeypatch):
    slurm = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "3"}
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    assert (process_rank(), process_count()) == (3, 4)
    assert started_by_others()
    monkeypatch.setattr(sys, "argv", ["train", "loss.beta=0.1"])
    first = new_folder(tmp_path)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert new_folder(tmp_path) == first
    assert first.name.startswith("slurm-7-")
    monkeypatch.setattr(sys, "argv", ["train", "loss.beta=0.2"])  # another command of the same script
    assert new_folder(tmp_path) != first
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    assert not started_by_others()
    monkeypatch.delenv("SLURM_JOB_NAME")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert process_rank() == 0
    assert not started_by_others()
    monkeypatch.delenv("SLURM_RESTART_COUNT")  # the same command twice in one job, such as a notebook's
    assert new_folder(tmp_path) != new_folder(tmp_path)


def test_lightnings_own_processes_are_known_by_their_local_rank(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert process_rank() == 1
    assert not started_by_others()
