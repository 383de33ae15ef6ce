"""From the shell to a job: user errors end it with one sentence, all other errors with a traceback."""

import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from threading import Event
from typing import Any, NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_dpo.cli.config import register_folders, register_resolvers
from lightning_dpo.cli.explain import explain
from lightning_dpo.cli.hydra_checks import check_composed_configs
from lightning_dpo.cli.shell import ordered
from lightning_dpo.errors import UserError
from lightning_dpo.printable import Printable, escape_unencodable, hide_environment, printable
from lightning_dpo.runs import slurm
from lightning_dpo.runs.ranks import process_rank
from lightning_dpo.settings import secret_in
from lightning_dpo.training.blocked import exit_if_blocked
from lightning_dpo.training.stop_signals import Stopped, handling

log = logging.getLogger(__name__)

_FULL_ERROR = "HYDRA_FULL_ERROR"
_TRACEBACK_WANTED = "LIGHTNING_DPO_FULL_ERROR"
# Set when a job starts. Hydra resets its own state before an exception of the job arrives in `run`.
_STARTED = Event()


def run(job: Callable[[], Any], config_name: str) -> None:
    """Run a Hydra job. A user error ends the program with one sentence and exit status 1.

    `HYDRA_FULL_ERROR=1` also shows the traceback.

    Args:
        job: The function decorated with `hydra.main`.
        config_name: Name of its primary config.
    """
    # Hydra warns that configs of ours have the name of a plugin's schema. They are meant to replace it.
    warnings.filterwarnings("ignore", message=r"[\s\S]*is validated against ConfigStore schema")
    escape_unencodable()
    register_folders(names_only="--help" in sys.argv)
    register_resolvers()
    # The user's value in another variable, because the next line overwrites it and child processes inherit that.
    os.environ.setdefault(_TRACEBACK_WANTED, os.environ.get(_FULL_ERROR, "0"))
    # Without this, Hydra prints errors itself and exits.
    os.environ[_FULL_ERROR] = "1"
    received: list[int] = []

    def stop(number: int) -> None:
        received.append(number)
        # In `fit`, Lightning terminates its child processes on KeyboardInterrupt and on no other exception.
        raise KeyboardInterrupt if number == signal.SIGINT else Stopped(number)

    try:
        with handling(stop), exit_if_blocked():
            _refuse_secrets(sys.argv[1:])
            sys.argv[1:] = ordered(sys.argv[1:])
            if get_args_parser().parse_args(sys.argv[1:]).experimental_rerun:
                raise UserError("--experimental-rerun is not allowed: it executes code in the file that it reads")
            check_composed_configs()
            job()
    except (KeyboardInterrupt, SystemExit) as end:
        # Lightning raises its own SystemExit on SIGTERM, without a status, and exits with 1 on KeyboardInterrupt.
        if isinstance(end, Stopped):
            received.append(end.signal)
        elif type(end) not in (KeyboardInterrupt, SystemExit):
            received.append(signal.SIGTERM)
        if not received:
            raise
        if config_name == "train" and received[-1] == getattr(signal, "SIGUSR1", None) and slurm.in_job():
            slurm.requeue()
        _end(received[-1], end)
    except (UserError, HydraException, OmegaConfBaseException, ValueError) as error:
        # Before the job starts, a ValueError is Hydra's way to reject a config. After that, it is a bug.
        explained = isinstance(error, UserError | HydraException | OmegaConfBaseException)
        if traceback_wanted() or (_STARTED.is_set() and not explained):
            raise
        print(printable(f"Error: {explain(error, sys.argv[1:], config_name)}"), file=sys.stderr)
        sys.exit(1)


def _end(number: int, stop: BaseException) -> NoReturn:
    """Exit with the status of a program that a signal ended, and print what the run has saved."""
    facts = "; ".join(getattr(stop, "__notes__", ()))
    if process_rank() == 0:
        with suppress(OSError):  # the terminal may be closed
            print(f"Stopped by {signal.Signals(number).name}{facts and f': {facts}'}.", file=sys.stderr, flush=True)
    sys.exit(128 + number)


def traceback_wanted() -> bool:
    """Whether the user set `HYDRA_FULL_ERROR=1`."""
    return os.environ.get(_TRACEBACK_WANTED) == "1"


def run_job(job: Callable[[DictConfig], Any], config: DictConfig) -> Any:
    """Run a job with its config. A user error ends a single run with one sentence; in a sweep, Hydra records it."""
    _STARTED.set()
    set_up_logging(process_rank())
    hide_environment(OmegaConf.to_yaml(config))
    try:
        return job(config)
    except UserError as error:
        log.error("%s", "; ".join([str(error), *getattr(error, "__notes__", ())]))
        if HydraConfig.get().mode == RunMode.MULTIRUN or traceback_wanted():
            raise
        sys.exit(1)


def set_up_logging(rank: int) -> None:
    """Escape control characters. On all ranks but the first, print only warnings and errors."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(Printable())
        if rank and type(handler) is logging.StreamHandler:
            handler.setLevel(logging.WARNING)


def _refuse_secrets(overrides: list[str]) -> None:
    """Check before Hydra starts, because Hydra writes overrides to disk before any job does."""
    for key in filter(None, map(secret_in, overrides)):
        raise UserError(f"{key}: Hydra would write this secret to the run's folder; set it in the environment")
