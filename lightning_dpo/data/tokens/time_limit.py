"""A time limit for code that comes with a model, such as a chat template."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class _TimeOver(BaseException):
    """Not an `Exception`, because a template engine may catch those."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Context that raises after `seconds` of CPU time, which do not pass while the process is suspended.

    On Windows, and in other threads than the main thread, time is not limited.

    Raises:
        TimeoutError: The time is over.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise _TimeOver

    before = signal.signal(signal.SIGVTALRM, stop)
    # Repeated, in case that the first exception is raised where it is ignored, such as in a destructor.
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, 1)
    try:
        yield
    except _TimeOver as error:
        raise TimeoutError(f"more than {seconds} s") from error
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
