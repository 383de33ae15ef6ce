"""One sentence for an error of Hydra: what is wrong in the config and what would be right."""

from collections.abc import Iterator, Sequence

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf

from lightning_dpo.cli.arguments import nearest
from lightning_dpo.cli.config import CONFIG_DIR
from lightning_dpo.errors import UserError


def explain(error: BaseException, arguments: Sequence[str], config_name: str = "train") -> str:
    """The sentence that explains why a config could not be composed.

    Args:
        error: What was raised.
        arguments: Arguments of the command line.
        config_name: Name of the primary config.
    """
    for cause in _chain(error):
        if isinstance(cause, UserError):
            return str(cause)
        if isinstance(cause, MissingConfigException) and cause.options and cause.missing_cfg_file:
            group, _, name = str(cause.missing_cfg_file).rpartition("/")
            close = nearest(name, cause.options) if _has_close(name, cause.options) else ""
            return f"{group}={name} is not an option{close}; there are {', '.join(cause.options)}"
    unknown = _unknown_key(arguments, config_name) if isinstance(error, ConfigCompositionException) else None
    return unknown or " ".join(str(error).split())


def _unknown_key(arguments: Sequence[str], config_name: str) -> str | None:
    """Find the override of a key that the config does not have. Hydra's exception has the key only in its message."""
    texts = [argument for argument in arguments if not argument.startswith("-")]
    overrides = [
        one for one in OverridesParser.create().parse_overrides(texts) if not (one.is_add() or one.is_delete())
    ]
    config, groups = _composed(overrides, config_name)
    for override in overrides:
        key = override.key_or_group
        node = OmegaConf.select(config, key, default=None)
        if key in groups or (override.is_force_add()):
            continue
        if OmegaConf.is_dict(node) and not isinstance(override.value(), dict):
            keys = ", ".join(f"{key}.{name}" for name in node)
            return f"{key} is not a group of this command: set its keys, {keys}"
        parent, _, name = key.rpartition(".")
        siblings = OmegaConf.select(config, parent, default=None) if parent else config
        options = [str(option) for option in siblings or {} if not str(option).startswith("_")]
        if name not in options:
            return _sentence(key, parent, name, options)
    return None


def _sentence(key: str, parent: str, name: str, options: list[str]) -> str:
    listed = f"; {parent or 'the config'} has {', '.join(options)}" if options else ""
    if _has_close(name, options):
        return f"{key} is not a key of the config{nearest(name, options)}{listed}"
    return f"{key} is not a key of the config{listed}; to pass an argument that is not listed, use +{key}=..."


def _has_close(name: str, options: Sequence[str]) -> bool:
    return "did you mean" in nearest(name, options)


def _composed(overrides: list[Override], config_name: str) -> tuple[DictConfig, set[str]]:
    """The config with the chosen options and without any other override, and the names of its groups."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        groups = set(compose(config_name, return_hydra_config=True).hydra.runtime.choices)
        choices = [str(one.input_line) for one in overrides if one.key_or_group in groups]
        try:
            return compose(config_name, choices), groups
        except HydraException:
            return OmegaConf.create(), groups


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
