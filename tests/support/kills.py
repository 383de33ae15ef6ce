"""A run that is killed at a chosen write or moment, the same command again, and what both leave in the run's folder."""

import csv
import json
import math
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.command import TINY, _signal_at
from tests.support.ranks import _FORKS

COMMAND = (
    *TINY, "trainer.max_epochs=2", "callbacks.last.every_n_steps=1", "callbacks.samples.shown=0", "run_name=run",
    "ckpt_path=last_if_any", "callbacks.last.keep=2",
)  # fmt: skip
ELSEWHERE = Path("/dev/shm")  # on Linux, a file system of its own
# Columns that depend on the speed and memory of the machine.
_MACHINE = ("per_second", "mfu", "rate_share", "seconds", "memory")
_DURATION, _GRACE = 120.0, 30.0  # seconds: of a run, and after a rank failed


@dataclass(frozen=True)
class Setup:
    """A configuration of the run: arguments of the command, number of ranks, and the folder for temporary files."""

    arguments: tuple[str, ...] = ()
    ranks: int = 1
    tmpdir: Path | None = None


SETUPS = {
    "one micro-batch a step": Setup(("data.batch_size=64", "data.pairs_per_step=64")),
    "accumulation 4": Setup(("data.batch_size=16", "data.pairs_per_step=64")),
    "2 workers": Setup(("data.num_workers=2",)),
    "accumulation 4, 2 workers": Setup(("data.batch_size=16", "data.pairs_per_step=64", "data.num_workers=2")),
    "LoRA with dropout": Setup(("adapter=lora", "adapter.dropout=0.3")),
    "TMPDIR on another file system": Setup(tmpdir=ELSEWHERE),
    "2 ranks": Setup(("strategy=ddp", "trainer.devices=2"), ranks=2),
    "2 ranks, accumulation 2, LoRA with dropout": Setup(
        ("strategy=ddp", "trainer.devices=2", "data.batch_size=16", "data.pairs_per_step=64", "adapter=lora",
         "adapter.dropout=0.3"), ranks=2,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Write:
    """A moment of a write, in the order of the run: before or after a file gets its name, or within an append."""

    file: str
    moment: str

    def __str__(self) -> str:
        return f"{self.moment} {self.file}"


@dataclass(frozen=True)
class Signal:
    """A signal that some ranks send to themselves when a function is called the given time."""

    number: int
    ranks: tuple[int, ...]
    module: str
    function: str
    call: int


def run(
    folder: Path,
    setup: Setup,
    kill_at: tuple[Write, int] | None = None,
    signal_at: Signal | None = None,
    kill_after: float | None = None,
) -> list[int]:
    """The exit statuses of the command's ranks, which an agent watches as torchrun's does.

    Args:
        folder: Working directory.
        setup: The configuration.
        kill_at: A write, and which of them, counted from 1, at which the first rank is killed.
        signal_at: A signal.
        kill_after: Seconds after which all ranks are killed.

    Raises:
        AssertionError: A rank has not ended after a time limit.
    """
    from torch.distributed import TCPStore

    folder.mkdir(exist_ok=True)
    agent = TCPStore("localhost", 0, is_master=True, wait_for_workers=False) if setup.ranks > 1 else None
    arguments = [(folder, setup, rank, agent.port if agent else 0, kill_at, signal_at) for rank in range(setup.ranks)]
    processes = [_FORKS.Process(target=_child, args=each) for each in arguments]
    for process in processes:
        process.start()
    started, failed_at = time.monotonic(), math.inf
    while any(process.is_alive() for process in processes):
        now = time.monotonic()
        if kill_after is not None and now > started + kill_after:
            for process in processes:
                process.kill()
        if failed_at == math.inf and any(process.exitcode for process in processes):
            failed_at = now
            time.sleep(0.5)  # ranks that end by themselves
            for process in processes:
                process.terminate()
        if now > min(started + _DURATION, failed_at + _GRACE):
            hang = [rank for rank, process in enumerate(processes) if process.is_alive() and not process.kill()]
            raise AssertionError(f"ranks {hang} hang; {(folder / f'output{hang[0]}.txt').read_text()[-2000:]}")
        time.sleep(0.02)
    return [process.exitcode for process in processes]


def writes(folder: Path) -> list[Write]:
    """The writes of a run that was not disturbed, each kind once."""
    lines = (folder / "writes.jsonl").read_text().splitlines()
    return list(dict.fromkeys(Write(**json.loads(line)) for line in lines))


def results(folder: Path) -> dict[str, Any]:
    """What a finished run leaves, without what depends on the machine.

    A run that was killed before its first checkpoint has left a folder, and the same command has started a new run.
    """
    path = next(path for path in sorted((folder / "outputs" / "run").iterdir()) if (path / "metrics.json").exists())
    with (path / "metrics.csv").open(newline="") as file:
        rows = [{name: text for name, text in row.items() if text and _steady(name)} for row in csv.DictReader(file)]
    metrics = json.loads((path / "metrics.json").read_text())
    weights = [file.read_bytes() for file in sorted((path / "export").glob("*.safetensors"))]
    return {
        "export": weights,
        "metrics.csv": [row for row in rows if row.keys() - {"step", "epoch"}],
        "samples.jsonl": (path / "samples.jsonl").read_text(),
        "metrics.json": {name: value for name, value in metrics.items() if _steady(name)},
    }


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """The names of the results that differ."""
    return [name for name, value in expected.items() if found[name] != value]


def _steady(name: str) -> bool:
    return not any(part in name for part in _MACHINE)


def _child(
    folder: Path, setup: Setup, rank: int, port: int, kill_at: tuple[Write, int] | None, signal_at: Signal | None
) -> None:
    import torch

    # Otherwise, it is that of this process, and worker processes would not notice that it was killed.
    multiprocessing.set_start_method("fork", force=True)
    os.chdir(folder)
    output = os.open(f"output{rank}.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(1)
    if setup.tmpdir:
        os.environ["TMPDIR"], tempfile.tempdir = str(setup.tmpdir), None
    if setup.ranks > 1:
        values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": setup.ranks, "LOCAL_WORLD_SIZE": setup.ranks,
                  "GROUP_RANK": 0, "MASTER_ADDR": "localhost", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test",
                  "TORCHELASTIC_USE_AGENT_STORE": True}  # fmt: skip
        os.environ |= {name: str(value) for name, value in values.items()}
        from lightning.pytorch.utilities import rank_zero_only

        rank_zero_only.rank = rank  # it was imported before the rank was known
    if rank == 0:
        _watch_writes(Path.cwd(), kill_at)
    if signal_at and rank in signal_at.ranks:
        _signal_at(signal_at.number, signal_at.module, signal_at.function, signal_at.call, folder / f"signal{rank}")
    from lightning_dpo import train

    sys.argv = ["train", *COMMAND, *setup.arguments]
    train.main()


def _watch_writes(folder: Path, kill_at: tuple[Write, int] | None) -> None:
    """Note every write of this process below `folder`, and die at one of them."""
    from lightning_dpo.runs.history import History

    counts: dict[Write, int] = {}
    replace, append = Path.replace, History._append

    def reached(file: str, moment: str) -> bool:
        write = Write(file, moment)
        counts[write] = counts.get(write, 0) + 1
        with (folder / "writes.jsonl").open("a") as log:
            log.write(json.dumps(vars(write)) + "\n")
        return kill_at == (write, counts[write])

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def replaced(self: Path, target: Any) -> Any:
        inside = folder / "outputs" in Path(target).absolute().parents
        if inside and reached(Path(target).name, "before"):
            die()
        found = replace(self, target)
        if inside and reached(Path(target).name, "after"):
            die()
        return found

    def appended(self: History, text: str) -> None:
        if reached(self.path.name, "within an append to"):
            append(self, text[: len(text) // 2 - 1])
            die()
        append(self, text)

    Path.replace, History._append = replaced, appended  # type: ignore[method-assign]
