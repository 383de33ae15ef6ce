"""Tool calls of datasets, converted to the form that chat templates read: `{type, function: {name, arguments}}`."""

import json
from typing import Any

from lightning_dpo.data.rows.reasons import InvalidRow, found

# The names of Llama, and of others.
_ARGUMENTS = ("parameters", "args", "input")


def tool_calls(calls: Any, name: str) -> list[dict[str, Any]]:
    """Tool calls with their arguments as objects. OpenAI and some datasets write them as JSON.

    Args:
        calls: A list of `{function: {name, arguments}, ...}` or `{name, arguments}`, or its JSON.
        name: The message, for messages of errors.

    Raises:
        InvalidRow: They are not such a list.
    """
    calls = from_json(calls)
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise InvalidRow(f"tool_calls of {name} must be a list of objects, not {found(calls)}")
    return [_call(call, name) for call in calls]


def calls_in_text(content: str | None, name: str) -> list[dict[str, Any]]:
    """The tool calls of a message whose text is one call or a list of calls as JSON (ShareGPT, ms-swift).

    Raises:
        InvalidRow: It is not.
    """
    calls = from_json(content)
    calls = [calls] if isinstance(calls, dict) else calls
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise InvalidRow(f"{name} is a tool call, and must be a JSON object, not {found(content)}")
    return [call if "function" in call else {"type": "function", "function": call} for call in calls]


def from_json(value: Any) -> Any:
    """The object or list that `value` contains as JSON; `value` itself if it does not."""
    if not isinstance(value, str):
        return value
    try:
        read = json.loads(value)
    except ValueError:
        return value
    return read if isinstance(read, dict | list) else value


def _call(call: dict[str, Any], name: str) -> dict[str, Any]:
    if "function" not in call:
        return _function(call)
    if not isinstance(call["function"], dict):
        raise InvalidRow(f"the function of a tool call of {name} must be an object, not {found(call['function'])}")
    return {**call, "function": _function(call["function"])}


def _function(function: dict[str, Any]) -> dict[str, Any]:
    # Nulls within the arguments have a meaning, others have not.
    function = {field: value for field, value in function.items() if value is not None}
    for other in _ARGUMENTS:
        if "arguments" not in function and other in function:
            function["arguments"] = function.pop(other)
    if "arguments" in function:
        # OpenAI writes no arguments as empty text.
        function["arguments"] = {} if function["arguments"] == "" else from_json(function["arguments"])
    return function
