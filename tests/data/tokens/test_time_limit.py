import signal
import threading
import time

import pytest

from lightning_dpo.data.tokens.time_limit import time_limit


def test_endless_code_is_stopped():
    with pytest.raises(TimeoutError), time_limit(0.05):
        while True:
            pass


def test_an_alarm_of_the_caller_comes_afterwards():
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    old = signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with time_limit(5):
            pass
        time.sleep(0.2)
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *old)
    assert rung == [1]


def test_other_threads_have_no_limit():
    seen = []

    def work():
        with time_limit(1e-6):
            seen.append(sum(range(10000)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [49995000]
