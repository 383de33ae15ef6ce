"""Names of roles in datasets, converted to those of chat templates."""

from collections.abc import Mapping

# ShareGPT, OASST, ms-swift, LLaMA-Factory and others. Roles that are not listed reach the template unchanged.
_KNOWN = {
    "human": "user", "prompter": "user", "user": "user",
    "gpt": "assistant", "ai": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant",
    "assistant": "assistant", "system": "system",
    "observation": "tool", "function_response": "tool", "tool_response": "tool", "tool": "tool",
    "function_call": "tool_call", "tool_call": "tool_call",
}  # fmt: skip


def role_of(name: str, roles: Mapping[str, str] | None = None) -> str:
    """The template's name of a role; `tool_call` for a message whose text is a call of a tool as JSON.

    Args:
        name: The name in the dataset.
        roles: Other names of the dataset and their roles, which take precedence.

    >>> role_of("Human"), role_of("environment"), role_of("environment", {"environment": "tool"})
    ('user', 'environment', 'tool')
    """
    name = (roles or {}).get(name, name)
    return _KNOWN.get(name.lower(), name)
