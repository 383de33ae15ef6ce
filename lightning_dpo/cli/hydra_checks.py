"""Checks of Hydra's own config, before Hydra executes it: callbacks, launchers, sweepers, logging, environment."""

import functools
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lightning_dpo.cli.config import CONFIG_DIR, ROOT
from lightning_dpo.cli.logging_checks import LOG_FILE, check_logging
from lightning_dpo.cli.targets import TRUST, targets
from lightning_dpo.errors import UserError
from lightning_dpo.runs.settings_files import as_dict, check_sweep
from lightning_dpo.runs.sweep_job import OVERRIDES_VARIABLE, SWEPT_VARIABLE

_KINDS = {"callbacks": Callback, "launcher": Launcher, "sweeper": Sweeper}
# Arguments of submitit's launchers that a shell executes.
_SHELL = re.compile(r"(slurm_)?(setup|python|srun_args|additional_parameters)$")
# Interpolations in the configs of this package whose values are numbers or text.
_CONSTANT = (
    LOG_FILE, "${hydra.sweep.dir}/.submitit/%j", "${hydra.job.name}", "${run_name}", "${trainer.devices}",
    "${trainer.num_nodes}",
)  # fmt: skip
# Classes that a sweeper may be configured with, by the module that has them.
_SWEEPER_PARTS = {"optuna.samplers": "BaseSampler", "optuna.pruners": "BasePruner"}
_MARK = "checked_by_lightning_dpo"
_JOB_NAME = re.compile(r"\$\{with_rank:\w+\}|[\w.-]+")


def check_composed_configs() -> None:
    """Check every config that Hydra composes, at the moment that it is composed.

    Hydra instantiates callbacks and configures logging before the job's function is called, also for `--help`. A config
    that is composed only for a check could differ from the one that is used, because configs can depend on the
    environment, on the mode and on the search path. So this wraps the method with which Hydra composes all its configs.
    """
    compose = ConfigLoaderImpl.load_configuration
    if getattr(compose, _MARK, False):
        return

    @functools.wraps(compose)
    def checked(
        self: ConfigLoaderImpl,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        *args: Any,
        **kwargs: Any,
    ) -> DictConfig:
        """Compose a config and check it."""
        parsed = OverridesParser.create().parse_overrides(overrides)
        swept = [override.key_or_group for override in parsed if override.is_sweep_override()]
        if run_mode == RunMode.MULTIRUN:  # the config of a sweep, not of one of its jobs
            os.environ[SWEPT_VARIABLE] = ",".join(swept)
            os.environ[OVERRIDES_VARIABLE] = shlex.join(overrides)
        config = compose(self, config_name, overrides, run_mode, *args, **kwargs)
        _check_shadowed(config)
        # Its default contains choices, which `hydra.compose` removes. Values from the environment stay unresolved.
        if "${choice:" in (name := str(as_dict(config).get("run_name"))) and "oc.env" not in name:
            config.run_name = config.run_name
        check_hydra(config, overrides)
        if run_mode == RunMode.MULTIRUN:
            swept += as_dict(config.hydra.sweeper).get("params") or []
            os.environ[SWEPT_VARIABLE] = ",".join(swept)  # names of folders contain the swept values
            if config.hydra.mode == RunMode.MULTIRUN and "sweep_folder" in config:
                check_sweep(config, swept)
                _check_direction(config)
        return config

    setattr(checked, _MARK, True)
    ConfigLoaderImpl.load_configuration = checked  # type: ignore[method-assign]  # Hydra has no hook here


def _check_shadowed(config: DictConfig) -> None:
    """Reject a file of the user with the name of a packaged option: Hydra would read only one of the two.

    The packaged folder is the first on Hydra's search path.

    Raises:
        UserError: There is one.
    """
    for source in config.hydra.runtime.config_sources:
        folder = Path(source.path)
        if source.schema != "file" or source.provider == "main" or folder.resolve() == CONFIG_DIR.resolve():
            continue
        groups = [path.relative_to(CONFIG_DIR) for path in CONFIG_DIR.rglob("*") if path.is_dir()]
        for group in (Path(), *groups, Path("experiment"), Path("sweep")):
            # Files of experiments/ and sweeps/ are options of these two groups.
            packaged = ROOT / f"{group}s" if str(group) in ("experiment", "sweep") else CONFIG_DIR / group
            for file in sorted((folder / group).glob("*.y*ml")):
                if file.suffix != ".yaml":
                    raise UserError(f"{file} is never read, because Hydra reads only .yaml files: rename it")
                if (packaged / file.name).exists():
                    raise UserError(f"{file} has the same name as {packaged / file.name}: rename it")


def _check_direction(config: DictConfig) -> None:
    """Check that a sweeper searches for better values of the metric that selects the best checkpoint.

    Raises:
        UserError: It searches for worse ones, as Optuna's plugin does by default.
    """
    direction, best = as_dict(config.hydra.sweeper).get("direction"), OmegaConf.select(config, "callbacks.best")
    if best is None or config.sweep_objective != best.monitor:
        return
    right, direction = f"{best.mode}imize", getattr(direction, "name", direction)  # Optuna's plugin has an enum
    if direction in ("minimize", "maximize") and direction != right:
        raise UserError(
            f"hydra.sweeper.direction={direction} would search for the worst {best.monitor}: set it to {right}"
        )


def check_hydra(config: DictConfig, overrides: Sequence[str]) -> None:
    """Check the node `hydra` of a composed config.

    Args:
        config: The config.
        overrides: The overrides that it was composed with.

    Raises:
        UserError: It names code that does not belong to Hydra or an installed plugin, sets the environment, or contains
            values that may change after this check.
    """
    raw = as_dict(config.hydra)
    given = {override.partition("=")[0].lstrip("+~") for override in overrides}
    for name in ("callbacks", "job_logging", "hydra_logging", "sweeper", "launcher"):
        _check_constant(f"hydra.{name}", raw[name])
    _check_targets(raw, config)
    for name in ("job_logging", "hydra_logging"):
        check_logging(f"hydra.{name}", raw[name])
    for key, text in _leaves(raw["launcher"], "hydra.launcher"):
        if not text.isprintable():  # submitit writes them to a script, where a new line is a new command
            raise UserError(f"{key}={text!r} is not allowed: it contains control characters")
    for name, value in raw["launcher"].items():
        if _SHELL.match(name) and value and f"hydra.launcher.{name}" not in given:
            raise UserError(
                f"hydra.launcher.{name} is executed by a shell, so it is allowed only on the command line: set "
                f"'hydra.launcher.{name}=...' there"
            )
    if raw["job"]["env_set"]:
        raise UserError("hydra.job.env_set is not allowed: set these variables in the environment of the command")
    if not _JOB_NAME.fullmatch(str(raw["job"]["name"])):
        raise UserError(f"hydra.job.name={raw['job']['name']}: use letters, digits, dots, dashes and underscores")
    for name, known in raw["overrides"].items():
        if forged := [override for override in known if override not in overrides]:
            raise UserError(f"hydra.overrides.{name}={forged[0]} is not allowed: only the command line sets it")
    for key in raw["sweeper"].get("params") or {}:
        if re.match(r"[\s+~]*hydra\b", key) or TRUST in key:
            raise UserError(f"hydra.sweeper.params: {key} is allowed only on the command line")


def _check_constant(key: str, node: Any) -> None:
    """Reject interpolations, because Hydra resolves them after this check, and their value may change."""
    for place, text in _leaves(node, key):
        if "${" in text and text not in _CONSTANT:
            raise UserError(f"{place}={text} is not allowed: its value may change before the job")


def _check_targets(raw: dict[str, Any], config: DictConfig) -> None:
    for key, found in targets(raw, "hydra"):
        target = str(found["_target_"])
        if key.startswith("hydra.sweeper."):
            _check_sweeper_part(key, target)
            continue
        kind = _KINDS.get(key.split(".")[1])
        if not target.startswith(("hydra._internal.core_plugins.", "hydra_plugins.")) or kind is None:
            raise UserError(f"{key}._target_={target} is not allowed: it does not belong to Hydra or a Hydra plugin")
        if target.endswith("SlurmLauncher"):
            _check_slurm(key, config)
        if not _is_installed(".".join(target.split(".")[:2])):
            raise UserError(f"{key} needs a plugin that is not installed: pip install 'lightning-dpo[sweep]'")
        path = target.rpartition(".")[0]
        value = _imported(target)
        # A module also contains what it imports, such as `Path`.
        if not isinstance(value, type) or value.__module__ != path or not issubclass(value, kind):
            raise UserError(f"{key}._target_={target} is not allowed: it is not a {kind.__name__.lower()} of {path}")


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # of the parent package, if no plugin is installed
        return False


def _check_sweeper_part(key: str, target: str) -> None:
    """Check a part of a sweeper, such as a sampler of Optuna: by its class, or because its plugin defines it."""
    path = target.rpartition(".")[0]
    kind = _SWEEPER_PARTS.get(path)
    of_plugin = target.startswith("hydra_plugins.")
    value = _imported(target) if kind or of_plugin else None
    if kind and isinstance(value, type) and issubclass(value, _imported(f"{path}.{kind}")):
        return
    plugin = ".".join(target.split(".")[:2])
    if of_plugin and callable(value) and f"{getattr(value, '__module__', '')}.".startswith(f"{plugin}."):
        return
    raise UserError(f"{key}._target_={target} is not allowed: it is not a part of an installed sweeper")


def _imported(target: str) -> Any:
    path, _, name = target.rpartition(".")
    try:
        return getattr(import_module(path), name, None)
    except ImportError:
        return None


def _leaves(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """The keys and texts of all values in `node`; an empty text for values of other types."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _leaves(value, f"{key}.{name}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _leaves(value, f"{key}[{index}]")
    else:
        yield key, node if isinstance(node, str) else ""


def _check_slurm(key: str, config: DictConfig) -> None:
    if shutil.which("sbatch") is None:
        raise UserError(f"{key} starts jobs with SLURM, but sbatch is not installed on this machine")
    devices = OmegaConf.select(config, "trainer.devices")
    if not isinstance(devices, int):
        raise UserError(f"{key} needs a task per device: trainer.devices={devices} must be a number")
