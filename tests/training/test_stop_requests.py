import os
import signal

from torch import distributed

from lightning_dpo.training.stop_requests import StopRequest
from tests.support.ranks import on_ranks


def exchanged() -> list:
    """The second rank receives a signal; the first has a flag."""
    distributed.init_process_group("gloo")
    rank = int(os.environ["RANK"])
    stop = StopRequest()
    stop.connect(2)
    seen = [stop.exchange(), stop.number]
    stop.received = signal.SIGUSR1 if rank == 1 else None
    seen += [stop.number, stop.exchange(rank == 0), stop.number, stop.gathered(rank)]
    stop.connect(2)
    return [*seen, stop.exchange(), stop.number]


def test_ranks_agree_on_a_signal_only_when_they_exchange_it():
    expected = [False, None, None, True, signal.SIGUSR1, [0, 1], False, None]
    assert on_ranks(2, exchanged) == [expected, expected]


def test_one_rank_knows_at_once():
    stop = StopRequest()
    stop.connect(1)
    stop.received = signal.SIGTERM
    assert stop.number == signal.SIGTERM
    assert stop.gathered("a") == ["a"]
