"""Errors of Hydra in one sentence: what is wrong in the config, and how to correct it."""

from collections.abc import Iterator, Sequence

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError

from lightning_dpo.cli.arguments import suggestion
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
            listed = ", ".join(cause.options)
            return f"{group}={name} is not an option{suggestion(name, cause.options)}; there are {listed}"
        if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.parent_node is not None:
            names = [str(name) for name in cause.parent_node if str(name) != "hydra" and not str(name).startswith("_")]
            return _unknown_key(str(cause.full_key), names)
    not_a_group = _not_a_group(arguments, config_name) if isinstance(error, ConfigCompositionException) else None
    return not_a_group or " ".join(str(error).split()) or f"the config cannot be read ({type(error).__name__})"


def _unknown_key(key: str, names: list[str]) -> str:
    parent, _, name = key.rpartition(".")
    listed = f"; {parent or 'the config'} has {', '.join(names)}" if names else ""
    if close := suggestion(name, names):
        return f"{key} is not a key of the config{close}{listed}"
    return f"{key} is not a key of the config{listed}; to pass an argument that is not listed, use +{key}=..."


def _not_a_group(arguments: Sequence[str], config_name: str) -> str | None:
    """Explain an override such as `reference=none` of a node that is not a group. Hydra's exception has only a text."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = compose(config_name, return_hydra_config=True)
    overrides = get_args_parser().parse_args(arguments).overrides
    for override in OverridesParser.create().parse_overrides(overrides):
        key = override.key_or_group
        node = OmegaConf.select(config, key, default=None)
        if OmegaConf.is_dict(node) and key not in config.hydra.runtime.choices:
            keys = ", ".join(f"{key}.{name}" for name in node)
            return f"{key} is not a group of this command: set its keys, {keys}"
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
