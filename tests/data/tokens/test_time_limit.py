import contextlib
import threading
import time

import pytest

from lightning_dpo.data.tokens.time_limit import time_limit


def test_endless_code_is_stopped():
    with pytest.raises(TimeoutError), time_limit(0.05):
        while True:
            pass


def test_code_cannot_catch_the_end_of_the_time():
    with pytest.raises(TimeoutError), time_limit(0.05):
        while True:
            with contextlib.suppress(Exception):
                sum(range(1000))


def test_waiting_does_not_count():
    started = time.monotonic()
    with time_limit(0.05):
        time.sleep(0.3)
    assert time.monotonic() - started >= 0.3  # it was not interrupted


def test_other_threads_have_no_limit():
    seen = []

    def work():
        with time_limit(1e-6):
            seen.append(sum(range(10000)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [49995000]
