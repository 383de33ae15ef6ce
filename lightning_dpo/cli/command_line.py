"""From the shell to a job: mistakes come back as one sentence, everything else as a traceback."""

import difflib
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_dpo.cli.config import CONFIG_DIR, register_folders, register_resolvers
from lightning_dpo.cli.hydra_checks import check_hydra, plain
from lightning_dpo.cli.targets import check_trust
from lightning_dpo.cli.unused_overrides import refuse_without_effect
from lightning_dpo.errors import UserError
from lightning_dpo.runs.ranks import process_rank
from lightning_dpo.runs.settings_files import task_overrides
from lightning_dpo.settings import secret_in
from lightning_dpo.training.stop_signals import Stopped, handling

log = logging.getLogger(__name__)

_FULL_ERROR = "HYDRA_FULL_ERROR"
_TRACEBACK_WANTED = "LIGHTNING_DPO_FULL_ERROR"


def run(job: Callable[[], Any], config_name: str) -> None:
    """Run a Hydra job; a mistake that can be explained ends the program with one sentence and exit status 1.

    `HYDRA_FULL_ERROR=1` shows the traceback as well.

    Args:
        job: The function under `hydra.main`.
        config_name: Its config's.
    """
    # argparse takes no override behind a flag that stands among them, as -m may.
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda argument: argument not in ("-m", "--multirun"))
    # Ours have the plugin's names, and are complete.
    warnings.filterwarnings("ignore", message=r"[\s\S]*is validated against ConfigStore schema")
    register_folders(names_alone="--help" in sys.argv)
    register_resolvers()
    os.environ.setdefault(_TRACEBACK_WANTED, os.environ.get(_FULL_ERROR, "0"))
    # Otherwise Hydra prints what goes wrong by itself, and exits.
    os.environ[_FULL_ERROR] = "1"
    received: list[int] = []

    def stop(number: int) -> None:
        received.append(number)
        # Within `fit`, Lightning ends the processes that it started on KeyboardInterrupt, and on no other exception.
        raise KeyboardInterrupt if number == signal.SIGINT else Stopped(number)

    try:
        with handling(stop):
            _refuse_secrets(sys.argv[1:])
            check_hydra(sys.argv[1:], config_name)
            job()
    except (KeyboardInterrupt, SystemExit) as end:
        # Lightning's own, on SIGTERM, has no exit status; on KeyboardInterrupt it exits with 1.
        if isinstance(end, Stopped):
            received.append(end.signal)
        elif type(end) not in (KeyboardInterrupt, SystemExit):
            received.append(signal.SIGTERM)
        if not received:
            raise
        _end(received[-1], end)
    except (UserError, HydraException, OmegaConfBaseException, ValueError) as error:
        # Any other ValueError is Hydra's word on what cannot be composed; once a job has begun, it is a fault of ours.
        explained = isinstance(error, UserError | HydraException | OmegaConfBaseException)
        if traceback_wanted() or (HydraConfig.initialized() and not explained):
            raise
        print(f"Error: {explain(error, sys.argv[1:], config_name)}", file=sys.stderr)
        sys.exit(1)


def _end(number: int, stop: BaseException) -> NoReturn:
    """Exit as a shell expects of a program that a signal ended, with what its run has saved."""
    facts = "; ".join(getattr(stop, "__notes__", ()))
    print(f"Stopped by {signal.Signals(number).name}{facts and f': {facts}'}.", file=sys.stderr)
    sys.exit(128 + number)


def traceback_wanted() -> bool:
    """Whether the user set `HYDRA_FULL_ERROR=1`."""
    return os.environ.get(_TRACEBACK_WANTED) == "1"


def told(job: Callable[[DictConfig], Any], config: DictConfig) -> Any:
    """Do a Hydra job. A mistake ends a single run here, in one sentence; in a sweep, it is the launcher's to record."""
    quieten(process_rank())
    try:
        overrides = task_overrides()
        check_trust(plain(config), overrides)
        refuse_without_effect(config, overrides)
        return job(config)
    except UserError as error:
        log.error("%s", "; ".join([str(error), *getattr(error, "__notes__", ())]))
        if HydraConfig.get().mode == RunMode.MULTIRUN or traceback_wanted():
            raise
        sys.exit(1)


def quieten(rank: int) -> None:
    """Of several processes, the first one tells how it goes; the others what goes wrong, and all in their log files."""
    for handler in logging.getLogger().handlers:
        if rank and type(handler) is logging.StreamHandler:
            handler.setLevel(logging.WARNING)


def explain(error: BaseException, overrides: list[str], config_name: str = "train") -> str:
    """The one sentence that says what is wrong and what would be right."""
    for cause in _chain(error):
        if isinstance(cause, UserError):
            return str(cause)
    text = " ".join(str(error).split())
    if match := re.search(r"Could not override '([^']+)'", text):
        return _unknown_key(match[1], overrides, config_name)
    if match := re.search(
        r"Could not find '([^']+)' Available options in '([^']+)': (.*?)( Config search path|$)", text
    ):
        group = match[2].removesuffix("/")
        name = match[1].removeprefix(f"{group}/")
        options = match[3].split()
        return f"{group}={name}: there is no such option{_nearest(name, options)}; there are {', '.join(options)}"
    return text


def _unknown_key(key: str, overrides: list[str], config_name: str) -> str:
    """`key` is not in the config: say which keys stand where it would."""
    parent, _, name = key.rpartition(".")
    choices = [
        override for override in overrides if "." not in override.partition("=")[0] and not override.startswith("-")
    ]
    node = OmegaConf.select(_composed(config_name, choices, key), parent or "", default={}) or {}
    options = [str(option) for option in node]
    if name in options and OmegaConf.is_dict(node[name]):
        return f"{key} is no group of this command: set its keys, {', '.join(f'{key}.{inner}' for inner in node[name])}"
    keys = ", ".join(option for option in options if not option.startswith("_"))
    listed = f"; {parent or 'the config'} has {keys}" if keys else ""
    nearest = _nearest(name, options)
    unlisted = "" if nearest else f"; an argument that is not listed there is given as +{key}=..."
    return f"{key} is no key of the config{nearest}{listed}{unlisted}"


def _composed(config_name: str, choices: list[str], key: str) -> DictConfig:
    """The config with the chosen groups, without the override that failed."""
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            return compose(config_name, [choice for choice in choices if choice.partition("=")[0].lstrip("+~") != key])
    except HydraException:
        return OmegaConf.create()


def _nearest(name: str, names: list[str]) -> str:
    match = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {match[0]}?" if match else ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _refuse_secrets(overrides: list[str]) -> None:
    """Hydra writes overrides to disk before any job starts."""
    for key in filter(None, map(secret_in, overrides)):
        raise UserError(f"{key}: Hydra would write this secret into the run's folder; set it in the environment")
