"""Errors of Hydra in one sentence: what is wrong in the config, and how to correct it."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import cast

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from lightning_dpo.cli.arguments import suggestion
from lightning_dpo.cli.checked import OPTIONAL
from lightning_dpo.cli.config import CONFIG_DIR
from lightning_dpo.cli.other_names import instead_of
from lightning_dpo.cli.shell import explain_override
from lightning_dpo.cli.targets import resolved
from lightning_dpo.errors import UserError
from lightning_dpo.runs.settings_files import as_dict
from lightning_dpo.settings import flat

_ANY = {
    "model": "for any other model, use model=llama model.name=ORG/NAME, or the folder of a model",
    "data": "for your own file, use data=jsonl data.path=FILE",
    "sweep": "wandb reads sweeps/wandb.yaml: wandb sweep sweeps/wandb.yaml",
    "hydra/sweeper": "others are plugins: pip install 'lightning-dpo[sweep]'",
    "hydra/launcher": "others are plugins: pip install 'lightning-dpo[sweep]'",
    "loss": "docs/extending.md explains how to add one",
}


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
        if isinstance(cause, OverrideParseException):
            return explain_override(cause, arguments)
        if isinstance(cause, MissingConfigException) and cause.missing_cfg_file:
            return _missing_option(str(cause.missing_cfg_file), cause.options or ())
        if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.parent_node is not None:
            return _unknown_key(str(cause.full_key), cast(DictConfig, cause.parent_node), config_name)
    not_a_group = _not_a_group(arguments, config_name) if isinstance(error, ConfigCompositionException) else None
    return not_a_group or " ".join(str(error).split()) or f"the config cannot be read ({type(error).__name__})"


def _missing_option(file: str, options: Sequence[str]) -> str:
    group, _, name = file.rpartition("/")
    options = options or sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))
    if not group or not options:
        return f"the config {file} does not exist in {CONFIG_DIR}, nor in a folder of --config-dir"
    hint = f"; {_ANY[group]}" if group in _ANY else ""
    close = suggestion(name, options)
    return f"{group}={name} is not an option{f'{close} There' if close else '; there'} are {', '.join(options)}{hint}"


def _unknown_key(key: str, parent: DictConfig, config_name: str) -> str:
    root, (path, _, name) = parent._get_root(), key.rpartition(".")
    known = [one for one in flat(as_dict(cast(DictConfig, root))) if not one.startswith("hydra.")]
    if instead := instead_of(key, known):
        return f"{key} is not a key of the config: {instead}"
    names = [str(one) for one in parent if str(one) != "hydra" and not str(one).startswith("_")]
    if options := _options_with(key, config_name):
        listed = f"{', '.join(options[:3])}{', ...' if len(options) > 3 else ''}"
        return f"{key} is not a key of the chosen {key.partition('.')[0]}: it belongs to {listed}"
    listed = f"; {path or 'the config'} has {', '.join(names)}" if names else ""
    accepted = _accepts(parent, path, name)
    # A key of another group, such as model.max_length.
    if not accepted and (elsewhere := instead_of(name, known)):
        return f"{key} is not a key of the config: {elsewhere}"
    close = suggestion(name, names, f"{path}." if path else "")
    if close and not accepted:
        return f"{key} is not a key of the config{close}"
    if path == "callbacks" or path.startswith("logger"):
        return f"{key} is not a key of the config{listed}; to add one, use +{path}.{name}._target_=..."
    advice = f"; to pass an argument that is not listed, use +{key}=..." if accepted else ""
    return f"{key} is not a key of the config{listed}{advice}"


def _accepts(node: DictConfig, path: str, name: str) -> bool:
    """Whether a node accepts a key that it does not have: an argument of its target, or any key of free content."""
    if "_target_" not in node:
        return "." in path or name in OPTIONAL
    return name in inspect.signature(resolved(path, node["_target_"])).parameters


def _options_with(key: str, config_name: str) -> list[str]:
    """The options of the group at the start of `key` that have this key, as `group=option`."""
    group = key.partition(".")[0]
    found = []
    for file in sorted((CONFIG_DIR / group).glob("*.yaml")):
        GlobalHydra.instance().clear()
        with (
            initialize_config_dir(str(CONFIG_DIR), version_base="1.3"),
            suppress(HydraException, OmegaConfBaseException),
        ):
            node = compose(config_name, overrides=[f"{group}={file.stem}"])
            parent = OmegaConf.select(node, key.rpartition(".")[0])
            if OmegaConf.is_dict(parent) and key.rpartition(".")[2] in parent:
                found.append(f"{group}={file.stem}")
    return found


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
