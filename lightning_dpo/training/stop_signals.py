"""Signals that end a run, as exceptions with the exit status that shells and schedulers expect."""

import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

# SLURM sends SIGUSR1 before the time limit if it is asked to: `--signal=USR1@90`. A terminal sends SIGHUP when it is
# closed, or its connection is lost. Windows has neither.
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP") if hasattr(signal, name)
)  # fmt: skip


_HANGUP = getattr(signal, "SIGHUP", None)

handled = threading.Event()
"""Set when a signal has been handled by Python code."""


class Stopped(SystemExit):
    """A signal ended the program: exit status 143 for SIGTERM, 130 for SIGINT, 138 for SIGUSR1, 129 for SIGHUP.

    Attributes:
        signal: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number)


@contextmanager
def handling(handle: Callable[[int], None]) -> Iterator[None]:
    """Context in which `handle(signal number)` is called for `SIGNALS`. It restores the previous handlers.

    `handle` is not called in forked processes, such as DataLoader workers. SIGTERM ends them, and they ignore the
    others: a terminal sends SIGINT and SIGHUP, and SLURM SIGUSR1, to all processes, and the main process ends its
    workers. A SIGHUP that is ignored, as with `nohup`, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():  # Python allows signal handlers only there
        yield
        return
    process = os.getpid()

    def received(number: int, _: FrameType | None) -> None:
        """Handle a signal in this process. In its children, SIGTERM has its default effect, and others have none."""
        if os.getpid() == process:
            handled.set()
            if number == _HANGUP:
                _discard_output()
            handle(number)
        elif number == signal.SIGTERM:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    kept = {_HANGUP} if _HANGUP and signal.getsignal(_HANGUP) == signal.SIG_IGN else set()
    before = {number: signal.signal(number, received) for number in SIGNALS if number not in kept}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _discard_output() -> None:
    """Discard further output, unless it is written to a file.

    To write to a closed terminal, or to a program such as `tee` that ended with it, raises an error, and the run would
    end before it saves.
    """
    with open(os.devnull, "w") as nothing:
        for stream in (1, 2):
            with suppress(OSError):  # the stream is closed
                if not stat.S_ISREG(os.fstat(stream).st_mode):
                    os.dup2(nothing.fileno(), stream)


def stop(number: int) -> None:
    """Raise `Stopped`: a handler for programs without state to save."""
    raise Stopped(number)
