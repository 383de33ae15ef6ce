import os
import time

import pytest
from torch.distributed import TCPStore

from lightning_dpo.runs.ranks import process_count, process_rank, start_time, started_by_others
from tests.support.ranks import on_ranks


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE"):
        monkeypatch.delenv(name, raising=False)
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)


def told(port: int) -> str:
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_PORT": str(port)}
    before = "" if process_rank() else start_time()
    time.sleep(1.1)
    return f"{process_rank()} {start_time()} {before or start_time()}"


def test_torchruns_processes_have_one_start_time():
    """The first one's time counts, by way of the store of torchrun's agent, however late and often they ask for it."""
    agent = TCPStore("localhost", 0, is_master=True)
    ranks = on_ranks(2, told, agent.port)
    assert [answer.split()[0] for answer in ranks] == ["0", "1"]
    assert len({time for answer in ranks for time in answer.split()[1:]}) == 1
    assert agent.get("lightning_dpo/start_time/0").decode() == ranks[0].split()[1]


def test_slurms_processes_have_one_start_time(monkeypatch):
    slurm = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "2", "SLURM_NTASKS": "4", "SLURM_PROCID": "3"}
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    assert (process_rank(), process_count()) == (3, 4)
    assert started_by_others()
    assert start_time() == "job_7-2-0"
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert start_time() == "job_7-2-0"
    monkeypatch.setenv("SLURM_JOB_START_TIME", "0")
    assert start_time().endswith("_7-2")
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    assert not started_by_others()
    monkeypatch.delenv("SLURM_JOB_NAME")
    monkeypatch.setenv("SLURM_NTASKS", "1")  # a shell on a node is no task of many
    assert process_rank() == 0
    assert not started_by_others()


def test_lightnings_own_processes_are_known_by_their_local_rank(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert process_rank() == 1
    assert not started_by_others()
