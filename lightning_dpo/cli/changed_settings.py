"""The settings of a run that differ from the defaults."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from lightning_dpo.cli.config import CONFIG_DIR, register_folders, register_resolvers
from lightning_dpo.run_folder import RunFolder
from lightning_dpo.runs.settings_files import as_dict, loaded, search_path, shown
from lightning_dpo.settings import compared, flat, without_secrets

# What their files set is compared setting by setting.
_FILES_OF_SETTINGS = ("experiment", "sweep")


class Changed(NamedTuple):
    """A setting that differs from its default. Values are text."""

    name: str
    value: str
    default: str


def changed_settings(run: Path) -> list[Changed]:
    """The options of groups that are not the default ones, then the settings that differ from those of the options.

    Raises:
        HydraException: An option that the run used does not exist any more.
        OSError: The run has no record of its options.
    """
    hydra = loaded(run / ".hydra" / "hydra.yaml").hydra
    register_folders()
    register_resolvers()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        usual = dict(_options(compose("train", return_hydra_config=True).hydra))
        chosen = {group: option for group, option in _options(hydra) if option != usual.get(group, option)}
        default = compose("train", [*search_path(hydra), *(f"{group}={option}" for group, option in chosen.items())])
    # The files of options may contain secrets, and `config.yaml` does not.
    configs = loaded(RunFolder(run).config), DictConfig(without_secrets(as_dict(default)))
    now, before = (flat(compared(as_dict(one))) for one in configs)
    names = (name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name))
    return [
        *(Changed(group, option, usual[group]) for group, option in chosen.items()),
        *(Changed(name, *(_text(one, name) for one in configs)) for name in names),
    ]


def _text(config: DictConfig, name: str) -> str:
    return str(shown(config, name)) if name in flat(as_dict(config)) else "(not set)"


def _options(hydra: DictConfig) -> Iterator[tuple[str, str]]:
    """Each group of the run and its chosen option. Those below a group follow from its option."""
    for name, option in as_dict(hydra.runtime.choices).items():
        if option and "/" not in name and name not in ("hydra", *_FILES_OF_SETTINGS):
            yield name, option
