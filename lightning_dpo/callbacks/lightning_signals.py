"""Replaces Lightning's own handling of signals, which can lose or duplicate steps."""

from typing import Any

from lightning import Trainer
from lightning.fabric.plugins.environments import SLURMEnvironment


def replace_handlers(trainer: Trainer) -> None:
    """Prevent Lightning from installing its handlers.

    Its SIGTERM handler broadcasts from within the handler, so ranks that receive the signal at different times wait for
    each other forever (Lightning issue 20806). Its SLURM handler saves in the middle of a step and resumes from any
    `hpc_ckpt_*.ckpt` in the folder.
    """
    environment: Any = getattr(trainer.strategy, "cluster_environment", None)
    if isinstance(environment, SLURMEnvironment):
        environment.auto_requeue = False
    trainer._signal_connector.register_signal_handlers = _nothing  # type: ignore[method-assign]  # no option for it


def forward_to_children(trainer: Trainer, number: int) -> None:
    """Send a signal to the processes that Lightning started for the other devices, as Lightning's handler does."""
    launcher = trainer.strategy.launcher
    if launcher is not None and hasattr(launcher, "procs"):
        launcher.kill(number)


def _nothing() -> None:
    """In place of Lightning's registration."""
