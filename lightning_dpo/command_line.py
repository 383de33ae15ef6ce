"""From the shell to a job: mistakes come back as one sentence, everything else as a traceback."""

import difflib
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_dpo.config import CONFIG_DIR, register_folders, register_run_folder
from lightning_dpo.errors import UserError

_FULL_ERROR = "HYDRA_FULL_ERROR"
_TRACEBACK_WANTED = "LIGHTNING_DPO_FULL_ERROR"
_SECRET_OVERRIDE = re.compile(r"[^=]*(api_?key|secret|password|token)=", re.IGNORECASE)


def run(job: Callable[[], Any]) -> None:
    """Run a Hydra job; a mistake that can be explained ends the program with one sentence and exit status 1.

    `HYDRA_FULL_ERROR=1` shows the traceback as well.
    """
    register_folders()
    register_run_folder()
    os.environ.setdefault(_TRACEBACK_WANTED, os.environ.get(_FULL_ERROR, "0"))
    # Otherwise Hydra prints what goes wrong by itself, and exits.
    os.environ[_FULL_ERROR] = "1"
    try:
        _refuse_secrets(sys.argv[1:])
        job()
    except (UserError, HydraException, OmegaConfBaseException) as error:
        if traceback_wanted():
            raise
        print(f"Error: {explain(error, sys.argv[1:])}", file=sys.stderr)
        sys.exit(1)


def traceback_wanted() -> bool:
    """Whether the user set `HYDRA_FULL_ERROR=1`."""
    return os.environ.get(_TRACEBACK_WANTED) == "1"


def explain(error: BaseException, overrides: list[str]) -> str:
    """The one sentence that says what is wrong and what would be right."""
    for cause in _chain(error):
        if isinstance(cause, UserError):
            return str(cause)
    text = " ".join(str(error).split())
    if match := re.search(r"Could not override '([^']+)'", text):
        return _unknown_key(match[1], overrides)
    if match := re.search(
        r"Could not find '([^']+)' Available options in '([^']+)': (.*?)( Config search path|$)", text
    ):
        group = match[2].removesuffix("/")
        name = match[1].removeprefix(f"{group}/")
        options = match[3].split()
        return f"{group}={name}: there is no such option{_nearest(name, options)}; there are {', '.join(options)}"
    return text


def _unknown_key(key: str, overrides: list[str]) -> str:
    """`key` is not in the config: say which keys stand where it would."""
    parent, _, name = key.rpartition(".")
    choices = [
        override for override in overrides if "." not in override.partition("=")[0] and not override.startswith("-")
    ]
    options = [str(option) for option in OmegaConf.select(_composed(choices, key), parent or "", default={}) or ()]
    keys = ", ".join(option for option in options if not option.startswith("_"))
    listed = f"; {parent or 'the config'} has {keys}" if keys else ""
    nearest = _nearest(name, options)
    unlisted = "" if nearest else f"; an argument that is not listed there is given as +{key}=..."
    return f"{key} is no key of the config{nearest}{listed}{unlisted}"


def _composed(choices: list[str], key: str) -> DictConfig:
    """The config with the chosen groups, without the override that failed."""
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            return compose("train", [choice for choice in choices if choice.partition("=")[0].lstrip("+~") != key])
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
    for override in overrides:
        if _SECRET_OVERRIDE.match(override):
            key = override.partition("=")[0].lstrip("+~")
            raise UserError(f"{key}: Hydra would write this secret into the run's folder; set it in the environment")
