"""From the shell to a job: mistakes come back as one sentence, everything else as a traceback."""

import difflib
import logging
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_dpo.config import CONFIG_DIR, register_folders, register_resolvers
from lightning_dpo.errors import UserError
from lightning_dpo.launch import process_rank
from lightning_dpo.run_notes import check_sweep
from lightning_dpo.sweep_jobs import SWEPT_VARIABLE
from lightning_dpo.targets import targets
from lightning_dpo.without_effect import refuse_without_effect

log = logging.getLogger(__name__)

_FULL_ERROR = "HYDRA_FULL_ERROR"
_TRACEBACK_WANTED = "LIGHTNING_DPO_FULL_ERROR"
_SECRET_OVERRIDE = re.compile(r"([\w.]*(api_?key|secret|password|\btoken|_token))\s*[=:]\s*\S", re.IGNORECASE)


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
    try:
        _refuse_secrets(sys.argv[1:])
        _check_hydra(sys.argv[1:], config_name)
        job()
    except KeyboardInterrupt:
        _end("Stopped", 130)
    except SystemExit as stop:
        # Lightning's, on SIGTERM, has no exit status, which would be one of success.
        if type(stop) is SystemExit:
            raise
        _end("Stopped by SIGTERM", 143)
    except (UserError, HydraException, OmegaConfBaseException, ValueError) as error:
        # Any other ValueError is Hydra's word on what cannot be composed; once a job has begun, it is a fault of ours.
        explained = isinstance(error, UserError | HydraException | OmegaConfBaseException)
        if traceback_wanted() or (HydraConfig.initialized() and not explained):
            raise
        print(f"Error: {explain(error, sys.argv[1:], config_name)}", file=sys.stderr)
        sys.exit(1)


def _end(what: str, status: int) -> None:
    print(f"{what}: a run goes on with ckpt_path=last, a sweep with sweep_folder=outputs/NAME/TIME.", file=sys.stderr)
    sys.exit(status)


def traceback_wanted() -> bool:
    """Whether the user set `HYDRA_FULL_ERROR=1`."""
    return os.environ.get(_TRACEBACK_WANTED) == "1"


def told(job: Callable[[DictConfig], Any], config: DictConfig) -> Any:
    """Do a Hydra job. A mistake ends a single run here, in one sentence; in a sweep, it is the launcher's to record."""
    quieten(process_rank())
    try:
        refuse_without_effect(config, HydraConfig.get().overrides.task)
        return job(config)
    except UserError as error:
        log.error("%s", error)
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


def _check_hydra(arguments: list[str], config_name: str) -> None:
    """Refuse what Hydra would call by itself before a job begins: callbacks, launchers and sweepers not its own.

    Raises:
        UserError: The config names a target that is neither Hydra's nor an installed plugin's.
    """
    parsed = get_args_parser().parse_args(arguments)
    if parsed.help or parsed.hydra_help or parsed.info or parsed.cfg or parsed.shell_completion:
        return
    folder = [f"hydra.searchpath=[file://{os.path.abspath(parsed.config_dir)}]"] if parsed.config_dir else []
    with initialize_config_dir(os.path.abspath(parsed.config_path or CONFIG_DIR), version_base="1.3"):
        # Values to sweep over are no part of what Hydra itself is made of.
        overrides = OverridesParser.create().parse_overrides(parsed.overrides)
        single = [override.input_line for override in overrides if not override.is_sweep_override()]
        config = compose(parsed.config_name or config_name, [*single, *folder], return_hydra_config=True)
    GlobalHydra.instance().clear()
    node = OmegaConf.to_container(config.hydra, resolve=False)
    for key, target in targets(node, "hydra"):
        if not str(target["_target_"]).startswith(("hydra._internal.core_plugins.", "hydra_plugins.")):
            raise UserError(f"{key}._target_={target['_target_']} is not allowed: it is neither Hydra's nor a plugin's")
        if str(target["_target_"]).endswith("SlurmLauncher"):
            _check_slurm(key, config)
        if find_spec(".".join(target["_target_"].split(".")[:2])) is None:
            raise UserError(f"{key} needs a plugin that is not installed: pip install 'lightning-dpo[sweep]'")
    swept = [override.key_or_group for override in overrides if override.is_sweep_override()]
    swept += node["sweeper"].get("params") or ()
    os.environ[SWEPT_VARIABLE] = ",".join(swept)
    if (parsed.multirun or config.hydra.mode == RunMode.MULTIRUN) and "sweep_folder" in config:
        check_sweep(config, swept)
    for name in ("job_logging", "hydra_logging"):
        if "'()'" in repr(node[name]):
            raise UserError(f"hydra.{name}: a logging config may not name a function to call, as its () key does")


def _check_slurm(key: str, config: DictConfig) -> None:
    if shutil.which("srun") is None:
        raise UserError(f"{key} starts jobs by SLURM, and there is no srun here: log in where there is")
    devices = OmegaConf.select(config, "trainer.devices")
    if not isinstance(devices, int):
        raise UserError(f"{key} asks for a task for every device: trainer.devices={devices} must be a number")


def _refuse_secrets(overrides: list[str]) -> None:
    """Hydra writes overrides to disk before any job starts."""
    for override in overrides:
        if match := _SECRET_OVERRIDE.search(override):
            raise UserError(
                f"{match[1]}: Hydra would write this secret into the run's folder; set it in the environment"
            )
