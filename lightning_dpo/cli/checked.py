"""A composed config: checked once as a whole, then built from the checked values."""

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    InterpolationKeyError,
    InterpolationResolutionError,
    OmegaConfBaseException,
)

from lightning_dpo.cli.arguments import check_arguments, checked_value, nearest
from lightning_dpo.cli.other_names import instead_of
from lightning_dpo.cli.targets import check_name, check_trust, resolved, targets
from lightning_dpo.errors import UserError
from lightning_dpo.runs.settings_files import as_dict
from lightning_dpo.settings import flat

# Keys that the program reads itself, instead of passing them to the target of their node, and their types.
_OWN: dict[str, Any] = {"trainer.val_check_steps": int | None, "seed": int, "data.name": str | None}
OPTIONAL = ("suggested", "callbacks", "profile")


class CheckedConfig:
    """The resolved values of a config, whose keys, targets and arguments are valid.

    Args:
        config: The composed config.
        keys: The top-level keys of the command.
        overrides: The overrides on the command line, `key=value` each.

    Raises:
        UserError: A key is unknown, missing or has no effect; a target is not allowed; an argument of a target is
            unknown, missing or of the wrong type. The message contains the key and a valid value.
    """

    def __init__(self, config: DictConfig, keys: Collection[str], overrides: Sequence[str] = ()) -> None:
        self.values = _resolved(config)
        _check_keys(self.values, keys)
        check_trust(self.values, overrides)
        interpolated = {key for key, value in flat(as_dict(config)).items() if "${" in str(value)}
        if "seed" in self.values:
            self.values["seed"] = checked_value("seed", self.values["seed"], _OWN["seed"], "seed" in interpolated)
        nodes = list(targets(self.values, ""))
        # All names before the first import: importing a package executes its code.
        for key, node in nodes:
            check_name(key, node["_target_"])
        for key, node in sorted(nodes, key=_import_cost):
            check_arguments(key, node, _OWN, interpolated)
        _check_effects(nodes, overrides)

    def build(self, key: str, **rest: Any) -> Any:
        """The object that `key` describes. If `key` holds several, a dict of them by name, without those that are null.

        Args:
            key: A top-level key.
            rest: Arguments that the program adds, for a node that is `_partial_`. Null in the config leaves the value
                to the program.

        Raises:
            UserError: A constructor rejects a value, or the config sets an argument of `rest` to another value.
        """
        node = self.values[key]
        if "_target_" not in node:
            return {name: _built(value, f"{key}.{name}") for name, value in node.items() if value is not None}
        node = {name: value for name, value in node.items() if f"{key}.{name}" not in _OWN}
        for name, value in rest.items():
            if node.get(name) not in (None, value):
                raise UserError(f"{key}.{name} is derived from the rest of the config: leave it out")
        built = _built(node, key)
        return call(key, built, **rest) if rest else built


def call(key: str, target: Callable[..., Any], *args: Any, **arguments: Any) -> Any:
    """Call `target(*args, **arguments)` and report what it rejects as an error at `key`.

    Raises:
        UserError: The call failed.
    """
    try:
        return target(*args, **arguments)
    except UserError:
        raise
    # Libraries raise their own exceptions for invalid values. HYDRA_FULL_ERROR=1 shows the traceback.
    except Exception as error:
        raise UserError(f"{key}: {error}") from error


def _resolved(config: DictConfig) -> dict[str, Any]:
    try:
        # First: a value that refers to a missing one could not be resolved either. `OmegaConf.missing_keys` follows
        # references, so it raises for such a value.
        if missing := sorted(key for key, value in flat(as_dict(config)).items() if value == "???"):
            raise UserError(f"{missing[0]} has no default: set it")
        return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    except (InterpolationKeyError, InterpolationResolutionError) as error:
        raise UserError(f"{_unresolvable(config)}: {str(error).splitlines()[0]}") from error


def _unresolvable(config: DictConfig) -> str:
    """The first value that cannot be resolved, as `key=value`: not one that refers to such a value."""
    failing = {}
    for key, value in flat(as_dict(config)).items():
        try:
            OmegaConf.select(config, key)
        except OmegaConfBaseException:
            failing[key] = str(value)
    key = next(key for key, value in failing.items() if not any(other in value for other in failing))
    return f"{key}={failing[key]}"


def _check_keys(values: dict[str, Any], keys: Collection[str]) -> None:
    for key in values:
        if key not in keys:
            instead = instead_of(str(key), list(flat(values)))
            raise UserError(
                f"{key!s} is not a key of this command{f': {instead}' if instead else nearest(str(key), keys)}"
            )
    for key in keys:
        if key not in values and key not in OPTIONAL:
            raise UserError(f"{key} is missing: choose an option with {key}=..., as listed by --help")


def _import_cost(node: tuple[str, dict[str, Any]]) -> int:
    """Sort key: the cheapest imports first, so that errors there are reported sooner."""
    target = node[1]["_target_"]
    prefixes = ("lightning_dpo.losses.", "torch.", "lightning.")
    return next((cost for cost, prefix in enumerate(prefixes) if target.startswith(prefix)), len(prefixes))


def _check_effects(nodes: list[tuple[str, dict[str, Any]]], overrides: Sequence[str]) -> None:
    """Reject an override of an argument that has no effect, as the target's own `without_effect` reports it."""
    # A choice of a group, such as data/source=hh, becomes data.source.
    keys = [override.partition("=")[0].lstrip("+~").replace("/", ".") for override in overrides]
    for node_key, node in nodes:
        without_effect = getattr(resolved(node_key, node["_target_"]), "without_effect", None)
        reasons = without_effect(node) if without_effect else {}
        for argument, reason in reasons.items():
            prefix = f"{node_key}.{argument}"
            for key in keys:
                if key == prefix or key.startswith(f"{prefix}."):
                    raise UserError(f"{key} has no effect: {reason}")


def _built(node: Any, key: str) -> Any:
    if isinstance(node, list):
        return [_built(value, f"{key}[{index}]") for index, value in enumerate(node)]
    if not isinstance(node, dict):
        return node
    values = {name: _built(value, f"{key}.{name}") for name, value in node.items()}
    if "_target_" not in node:
        return values
    target = resolved(key, values.pop("_target_"))
    if values.pop("_partial_", False):
        return functools.partial(target, **values)
    return call(key, target, **values)
