"""Several processes as torchrun would start them: forked from one that has imported everything, under a time limit."""

import faulthandler
import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing import connection
from typing import Any

_GRACE = 30.0  # seconds; after a sweep, the first rank still draws its report
# The server imports these once; what it forks starts at once, and no thread pool was used before the fork.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.conftest", "tests.support.train_on_ranks", "lightning", "datasets", "peft"])


def on_ranks(count: int, function: Callable[..., Any], *arguments: Any, timeout: float = 100) -> list[Any]:
    """What `function(*arguments)` returns on each of `count` ranks; where one fails, the others are ended.

    Raises:
        AssertionError: A rank raised, with the tracebacks, or none answered in time.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    pipes = [_FORKS.Pipe(duplex=False) for _ in range(count)]
    ranks = [
        _FORKS.Process(target=_rank, args=(sender, rank, count, port, timeout, function, arguments), daemon=True)
        for rank, (_, sender) in enumerate(pipes)
    ]
    for process in ranks:
        process.start()
    waiting = {receiver: rank for rank, (receiver, _) in enumerate(pipes)}
    values, errors, patience = {}, [], timeout
    while waiting and (ready := connection.wait(waiting, patience)):
        for receiver in ready:
            values[waiting.pop(receiver)], error = receiver.recv()
            # The others may have something to say about it, too.
            errors, patience = ([*errors, error], _GRACE) if error else (errors, patience)
    for process in ranks:
        process.kill()
        process.join()
    assert not errors, "\n".join(errors)
    assert not waiting, f"ranks {sorted(waiting.values())} hang"
    return [values[rank] for rank in range(count)]


def forked(function: Callable[..., Any], *arguments: Any, timeout: float = 200) -> int:
    """The exit status of a process that calls `function(*arguments)`; negative for the signal that killed it."""
    process = _FORKS.Process(target=function, args=arguments)
    process.start()
    process.join(timeout)
    assert process.exitcode is not None or process.kill(), "it hangs"
    return process.exitcode


def _rank(
    sender: Any, rank: int, count: int, port: int, timeout: float, function: Callable[..., Any], arguments: tuple
) -> None:
    import torch

    faulthandler.dump_traceback_later(0.9 * timeout)  # where a rank hangs
    torch.set_num_threads(1)
    if count > 1:
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        values = (rank, rank, count, count, "localhost", port)
        os.environ |= dict(zip(names, map(str, values), strict=True)) | {
            "TORCHELASTIC_RUN_ID": "test",
            "GROUP_RANK": "0",
        }
        from lightning.pytorch.utilities import rank_zero_only

        rank_zero_only.rank = rank  # it was imported before the rank was known
    try:
        sender.send((function(*arguments), None))
    except BaseException:  # whatever it is, the test tells it
        sender.send((None, traceback.format_exc()))
