"""The arguments of a target in a config: checked by name and type before the target is called."""

import difflib
import inspect
from collections.abc import Collection, Mapping
from typing import Any, get_type_hints

from lightning_dpo.cli.other_names import instead_of
from lightning_dpo.cli.targets import resolved, targets
from lightning_dpo.errors import UserError


def check_arguments(key: str, node: dict[str, Any], own: Mapping[str, Any], interpolated: Collection[str]) -> None:
    """Check that a node has the arguments of its target: known, complete, of the right type.

    Args:
        key: Key of the node.
        node: The node, with `_target_`.
        own: Keys that are not arguments, and their types.
        interpolated: Keys whose value comes from elsewhere. Environment variables are text, so if the type is a number,
            their value is converted in `node`.

    Raises:
        UserError: The message contains the key and a valid value.
    """
    target = resolved(key, node["_target_"])
    arguments = {name: value for name, value in node.items() if name not in ("_target_", "_partial_")}
    try:
        parameters = inspect.signature(target).parameters
    except ValueError as error:  # classes that are implemented in C
        raise UserError(f"{key}._target_={node['_target_']} cannot be checked: it has no signature") from error
    hints = get_type_hints(target.__init__ if inspect.isclass(target) else target)
    of_program = {name: own[f"{key}.{name}"] for name in arguments if f"{key}.{name}" in own}
    for name in arguments:
        if name not in parameters and name not in of_program:
            instead = instead_of(f"{key}.{name}", ())
            advice = f": {instead}" if instead else nearest(name, set(parameters), f"{key}.")
            raise UserError(f"{key}.{name}: {node['_target_']} has no argument {name!r}{advice}")
    # A partial gets its remaining arguments from the program.
    if not node.get("_partial_"):
        for name, parameter in parameters.items():
            optional = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            if name not in arguments and parameter.default is parameter.empty and not optional:
                raise UserError(f"{key}.{name}: this argument of {node['_target_']} is required")
    hints |= of_program
    for name, value in arguments.items():
        # An argument that is built from a nested target is checked where it is used.
        if name in hints and not any(True for _ in targets(value, "")):
            node[name] = checked_value(f"{key}.{name}", value, hints[name], f"{key}.{name}" in interpolated)


def checked_value(key: str, value: Any, hint: Any, interpolated: bool) -> Any:
    """The value of `key`, which must have the type `hint`. Text from an interpolation is converted to a number.

    Raises:
        UserError: It has another type.
    """
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

    try:
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
        converted = adapter.validate_python(value)
    except PydanticUserError:
        return value  # pydantic does not support this hint
    except ValidationError as error:
        messages = [one["msg"] for one in error.errors() if one["type"] == "literal_error"]
        raise UserError(f"{key}={value}: {'; '.join(messages) or error.errors()[0]['msg']}") from error
    # pydantic converts "8", 8.0 and true to numbers. The value itself is passed on, so it must have the right type.
    if isinstance(value, bool) and not isinstance(converted, bool):
        raise UserError(f"{key}={value} should be a number")
    if isinstance(converted, int | float) and isinstance(value, str):
        if interpolated:
            return converted
        raise UserError(f"{key}={value!r} is text and should be a number; remove the quotes")
    if isinstance(converted, int) and isinstance(value, float):
        raise UserError(f"{key}={value} should be an integer: {converted}")
    return value


def suggestion(name: str, names: Collection[str], prefix: str = "") -> str:
    """The closest name as a suggestion; empty if there is none.

    >>> suggestion("bta", {"beta", "label_smoothing"}, "loss.")
    '; did you mean loss.beta?'
    """
    match = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {prefix}{match[0]}?" if match else ""


def nearest(name: str, names: Collection[str], prefix: str = "") -> str:
    """The closest name as a suggestion or, if there is none, all names."""
    return suggestion(name, names, prefix) or (f"; there are {', '.join(sorted(names))}" if names else "; it has none")
