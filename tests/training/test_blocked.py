import os
import signal
import threading
import time
from datetime import timedelta

from torch.distributed import TCPStore

from lightning_dpo.training import blocked
from lightning_dpo.training.blocked import exit_if_blocked
from lightning_dpo.training.stop_signals import handling, stop
from tests.support.ranks import _FORKS


def waiting(port: int, in_python: bool, defers: bool) -> None:
    """Wait for a value that no process sets: in C++, where Python calls no signal handlers, or in Python."""
    blocked._PATIENCE = 0.5
    if defers:
        blocked.deferred.set()
    with handling(stop), exit_if_blocked():
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
        if in_python:
            time.sleep(60)
        TCPStore("localhost", port, is_master=False).wait(["never"], timedelta(seconds=3))


def status_of(port: int, in_python: bool = False, defers: bool = False) -> int | None:
    process = _FORKS.Process(target=waiting, args=(port, in_python, defers))
    process.start()
    process.join(60)
    return process.exitcode


def test_a_process_that_waits_for_another_one_ends_after_a_signal():
    agent = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    assert status_of(agent.port) == 143
    assert status_of(agent.port, in_python=True) == 143
    assert status_of(agent.port, defers=True) == 143  # after the time limit of the store
