"""The command `python -m lightning_dpo.train`, in a process that has imported everything already."""

import importlib
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.support.ranks import forked, on_ranks

TINY = (
    "model.teaching_steps=5", "data.rows.pairs=256", "data.rows.val_pairs=16", "trainer.max_epochs=1",
    "data.batch_size=64", "logger=csv", "trainer.accelerator=cpu", "callbacks.samples.answers=4",
)  # fmt: skip
"""A run of two steps in the reviews world."""


def command(folder: Path, *arguments: str, module: str = "train", **disturbed: Any) -> tuple[int, str]:
    """Exit status and output of the command, run in `folder`.

    Args:
        folder: Working directory; made if it is not there.
        arguments: Of the command.
        module: `train`, or that of another command.
        disturbed: What `_disturb` does to it.
    """
    folder.mkdir(exist_ok=True)
    status = forked(_main, folder, module, list(arguments), disturbed)
    return status, (folder / "output.txt").read_text()


def command_on_ranks(folder: Path, *arguments: str, rank_1_fails: bool = False) -> None:
    """The command on two ranks, as torchrun starts it, its agent's store included.

    Args:
        folder: Working directory; made if it is not there.
        arguments: Of the command.
        rank_1_fails: The second rank fails, alone, in its first job.

    Raises:
        AssertionError: A rank ended with another exit status than 0.
    """
    from torch.distributed import TCPStore

    folder.mkdir(exist_ok=True)
    agent = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    on_ranks(2, _on_a_rank, folder, list(arguments), agent.port, rank_1_fails)


def _on_a_rank(folder: Path, arguments: list[str], port: int, rank_1_fails: bool) -> None:
    from lightning_dpo import train as module
    from lightning_dpo.runs import sweep_job

    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_PORT": str(port)}
    os.chdir(folder)
    if rank_1_fails:
        sweep_job._PATIENCE = timedelta(seconds=2)
        if os.environ["RANK"] == "1":
            module.train = fail
    sys.argv = ["train", *arguments]
    module.main()


def fail(config: object) -> float:
    raise OSError("no space left")


def _main(folder: Path, module: str, arguments: list[str], disturbed: dict[str, Any]) -> None:
    os.chdir(folder)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that it starts
    output = os.open("output.txt", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    _disturb(**disturbed)
    sys.argv = [module, *arguments]
    importlib.import_module(f"lightning_dpo.{module}").main()


def _disturb(
    kill_before_job: int | None = None,
    kill_after_steps: int | None = None,
    path: Path | None = None,
    signal_at: tuple[int, str, str, int] | None = None,
) -> None:
    """SIGKILL when the job of that number begins, or after so many steps; another PATH to find programs in; a signal.

    The signal comes when a function is called the given time: `(number, module, function, call)`.
    """
    if signal_at is not None:
        _signal_at(*signal_at)
    from lightning_dpo import DPOModule, train

    whole_job, whole_step = train.train, DPOModule.training_step

    def job(config):
        if Path(config.run_folder).name.startswith(f"{kill_before_job}_"):
            os.kill(os.getpid(), signal.SIGKILL)
        return whole_job(config)

    def step(self, *arguments):
        if self.trainer.global_step == kill_after_steps:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole_step(self, *arguments)

    train.train, DPOModule.training_step = job, step
    if path is not None:
        os.environ["PATH"] = str(path)


def _signal_at(number: int, module: str, name: str, call: int, note: Path | None = None) -> None:
    """Send this process a signal when a function is called the given time. `note` is a file that is created then."""
    owner = importlib.import_module(f"lightning_dpo.{module}")
    *classes, name = name.split(".")
    for part in classes:
        owner = getattr(owner, part)
    whole, calls = getattr(owner, name), []

    def signalled(*arguments, **options):
        calls.append(name)
        if len(calls) == call:
            if note:
                note.touch()
            os.kill(os.getpid(), number)
        return whole(*arguments, **options)

    setattr(owner, name, signalled)
