"""Several processes as torchrun would start them: forked from one that has imported everything, under a time limit."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

# The server imports these once; what it forks starts at once, and no thread pool was used before the fork.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.conftest", "tests.train_on_ranks", "lightning", "datasets", "peft"])


def on_ranks(count: int, function: Callable[..., Any], *arguments: Any, timeout: float = 100) -> list[Any]:
    """What `function(*arguments)` returns on each of `count` ranks.

    Raises:
        AssertionError: A rank raised, with its traceback, or none answered in time.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    pipes = [_FORKS.Pipe(duplex=False) for _ in range(count)]
    ranks = [
        _FORKS.Process(target=_rank, args=(sender, rank, count, port, function, arguments), daemon=True)
        for rank, (_, sender) in enumerate(pipes)
    ]
    for process in ranks:
        process.start()
    try:
        answers = []
        for rank, (receiver, _) in enumerate(pipes):
            assert receiver.poll(timeout), f"rank {rank} hangs"
            answers.append(receiver.recv())
    finally:
        for process in ranks:
            process.kill()
            process.join()
    errors = [error for _, error in answers if error]
    assert not errors, "\n".join(errors)
    return [value for value, _ in answers]


def forked(function: Callable[..., Any], *arguments: Any, timeout: float = 200) -> int:
    """The exit status of a process that calls `function(*arguments)`; negative for the signal that killed it."""
    process = _FORKS.Process(target=function, args=arguments)
    process.start()
    process.join(timeout)
    assert process.exitcode is not None or process.kill(), "it hangs"
    return process.exitcode


def _rank(sender: Any, rank: int, count: int, port: int, function: Callable[..., Any], arguments: tuple) -> None:
    import torch

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
