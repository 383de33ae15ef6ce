"""Ends a process that received a signal, but is blocked outside of Python and cannot handle it."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from lightning_dpo.training.stop_signals import SIGNALS, handled

_PATIENCE = 5.0  # seconds

deferred = threading.Event()
"""Set while signals wait for the end of an optimizer step, which may take longer."""


@contextmanager
def exit_if_blocked() -> Iterator[None]:
    """Context in which a signal ends the process, even if the main thread never returns to Python.

    Python calls signal handlers in the main thread, between two instructions. A rank that waits for another one, which
    has ended before it could answer, waits in C++. So the signal wakes a second thread. If the main thread has not
    handled the signal after a few seconds, and no training would be lost, the second thread ends the process.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(os, "register_at_fork"):
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    # A worker process has a copy of the socket. Its signals are its own.
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    ended = threading.Event()
    threading.Thread(target=_watch, args=(reader, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(before)
        writer.close()


def _watch(reader: socket.socket, ended: threading.Event) -> None:
    while numbers := reader.recv(64):
        stops = [number for number in numbers if number in SIGNALS]
        if stops and not handled.wait(_PATIENCE) and not (ended.is_set() or deferred.is_set()):
            os.write(2, f"Stopped by {signal.Signals(stops[-1]).name} while waiting for another process.\n".encode())
            os._exit(128 + stops[-1])
        handled.clear()
