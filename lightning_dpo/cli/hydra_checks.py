"""Checks of Hydra's own config before Hydra executes it: callbacks, launchers, sweepers, logging, environment."""

import itertools
import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_dpo.cli.config import CONFIG_DIR
from lightning_dpo.cli.targets import TRUST, targets
from lightning_dpo.errors import UserError
from lightning_dpo.runs.settings_files import as_dict, check_sweep
from lightning_dpo.runs.sweep_job import SWEPT_VARIABLE

_CLASSES = ("logging.Formatter", "logging.StreamHandler", "logging.FileHandler")
_STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
_LOG_FILE = "${hydra.runtime.output_dir}/${hydra.job.name}.log"


def check_hydra(arguments: list[str], config_name: str) -> None:
    """Check Hydra's own config, and a sweep before its first job.

    Hydra instantiates callbacks and configures logging before the job's function is called, so the config must be
    composed here once before Hydra composes it.

    Args:
        arguments: Arguments of the command line.
        config_name: Name of the primary config, unless the command line sets another.

    Raises:
        UserError: The config names code that does not belong to Hydra or an installed plugin, sets the environment, or
            describes an invalid sweep.
    """
    parsed = get_args_parser().parse_args(arguments)
    if parsed.help or parsed.hydra_help or parsed.info or parsed.cfg or parsed.shell_completion:
        return
    folder = [f"hydra.searchpath=[file://{os.path.abspath(parsed.config_dir)}]"] if parsed.config_dir else []
    with initialize_config_dir(os.path.abspath(parsed.config_path or CONFIG_DIR), version_base="1.3"):
        # Swept overrides are composed per job below.
        overrides = OverridesParser.create().parse_overrides(parsed.overrides)
        # `compose` does not support sweeps such as loss.beta=0.1,0.2.
        single = [str(override.input_line) for override in overrides if not override.is_sweep_override()]
        config = compose(parsed.config_name or config_name, [*single, *folder], return_hydra_config=True)
        params = plain(config.hydra.sweeper).get("params") or {}
        for key in params:
            if key.lstrip("+~").startswith("hydra") or key.endswith(TRUST):
                raise UserError(f"hydra.sweeper.params: {key} is allowed only on the command line")
        swept = [override.key_or_group for override in overrides if override.is_sweep_override()]
        swept += params
        os.environ[SWEPT_VARIABLE] = ",".join(swept)  # before composing, because configs may use it
        _check(config, single)
        # The options of a swept group may change Hydra's own config for their jobs.
        for job in _jobs(parsed.overrides, params, config):
            _check(compose(parsed.config_name or config_name, [*job, *folder], return_hydra_config=True), job)
    # `hydra.main` initializes Hydra itself, and must find it uninitialized.
    GlobalHydra.instance().clear()
    if (parsed.multirun or config.hydra.mode == RunMode.MULTIRUN) and "sweep_folder" in config:
        check_sweep(config, swept)


def _jobs(overrides: list[str], params: dict[str, Any], config: DictConfig) -> list[list[str]]:
    """The overrides of jobs that differ in a group. Other swept values cannot change Hydra's own config."""
    swept_by_config = [f"{key}={value}" for key, value in params.items()]
    parsed = OverridesParser.create().parse_overrides([*overrides, *swept_by_config])
    kept = []
    for override in parsed:
        group = override.key_or_group in config.hydra.runtime.choices or override.is_add() or override.is_force_add()
        if not override.is_sweep_override():
            kept.append([str(override.input_line)])
        elif override.is_discrete_sweep() and group:
            values = override.sweep_string_iterator()
            kept.append([f"{override.get_key_element()}={value}" for value in values])
    swept = any(len(values) > 1 for values in kept) or params
    return [list(job) for job in itertools.product(*kept)] if swept else []


def _check(config: DictConfig, overrides: list[str]) -> None:
    """Check the config of one job."""
    node, raw = plain(config.hydra), as_dict(config.hydra)
    for name in ("callbacks", "job_logging", "hydra_logging"):
        _check_constant(f"hydra.{name}", raw[name])
    _check_targets(node, config)
    for name in ("job_logging", "hydra_logging"):
        _check_logging(f"hydra.{name}", node[name])
    if node["job"]["env_set"]:
        names = ", ".join(node["job"]["env_set"])
        raise UserError(f"hydra.job.env_set is not allowed: set {names} in the environment of the command")
    if forged := [override for override in raw["overrides"]["task"] if override not in overrides]:
        raise UserError(f"hydra.overrides.task={forged[0]} is not allowed: only the command line sets it")


def _check_constant(key: str, node: Any) -> None:
    """Reject interpolations, because Hydra resolves them after this check, and their value may change."""
    for place, text in _leaves(node, key):
        if "${" in text and not (place.endswith(".filename") and text == _LOG_FILE):
            raise UserError(f"{place}={text} is not allowed: its value may change before the job")


def plain(node: Any) -> Any:
    """A config as plain values. Interpolations are resolved if possible; otherwise they stay as text."""
    if isinstance(node, DictConfig):
        return {key: plain(_value(node, key)) for key in node}
    if isinstance(node, ListConfig):
        return [plain(_value(node, index)) for index in range(len(node))]
    return node


def _value(node: DictConfig | ListConfig, key: Any) -> Any:
    try:
        return node[key]
    except OmegaConfBaseException:
        return as_dict(node)[key]


def _check_targets(node: dict[str, Any], config: DictConfig) -> None:
    for key, found in targets(node, "hydra"):
        target = str(found["_target_"])
        if not target.startswith(("hydra._internal.core_plugins.", "hydra_plugins.")):
            raise UserError(f"{key}._target_={target} is not allowed: it does not belong to Hydra or a Hydra plugin")
        if target.endswith("SlurmLauncher"):
            _check_slurm(key, config)
        if find_spec(".".join(target.split(".")[:2])) is None:
            raise UserError(f"{key} needs a plugin that is not installed: pip install 'lightning-dpo[sweep]'")


def _check_logging(key: str, node: Any) -> None:
    """Reject what makes Python's logging call functions, import classes or open files named in its config."""
    for place, text in _leaves(node, key):
        name = place.rpartition(".")[2]
        if "()" in place:
            raise UserError(f"{key}: a logging config must not call a function with a () key")
        if name == "class" and text not in _CLASSES:
            raise UserError(f"{place}={text} is not allowed: a logging config may name {', '.join(_CLASSES)}")
        if name == "filename" and text != _LOG_FILE:
            raise UserError(f"{place}={text} is not allowed: the log file is {_LOG_FILE}")
        if text.startswith(("ext://", "cfg://")) and text not in _STREAMS:
            raise UserError(f"{place}={text} is not allowed: a logging config may name {', '.join(_STREAMS)}")


def _leaves(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """All keys in `node` and their text; an empty text for values of other types."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _leaves(value, f"{key}.{name}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _leaves(value, f"{key}[{index}]")
    else:
        yield key, node if isinstance(node, str) else ""


def _check_slurm(key: str, config: DictConfig) -> None:
    if shutil.which("srun") is None:
        raise UserError(f"{key} starts jobs with SLURM, but srun is not installed on this machine")
    devices = OmegaConf.select(config, "trainer.devices")
    if not isinstance(devices, int):
        raise UserError(f"{key} needs a task per device: trainer.devices={devices} must be a number")
