"""Checks of a logging config: Python's `logging.config` can call functions, set attributes and open any file."""

from typing import Any

from lightning_dpo.errors import UserError

LOG_FILE = "${hydra.runtime.output_dir}/${hydra.job.name}.log"

# The keys that are allowed in each part of the config. A list of dangerous keys would not be complete: a handler's key
# "." sets any of its attributes, and "()" calls any function.
_PARTS = {
    "formatters": {"class", "format", "datefmt", "style"},
    "handlers": {"class", "formatter", "level", "stream", "filename", "delay", "encoding"},
    "loggers": {"level", "handlers", "propagate"},
}
_TOP = {"version", "disable_existing_loggers", "root", *_PARTS}
# The values that are allowed for keys that name code or files.
_VALUES = {
    "class": ("logging.Formatter", "logging.StreamHandler", "logging.FileHandler"),
    "stream": ("ext://sys.stdout", "ext://sys.stderr"),
    "filename": (LOG_FILE,),
}


def check_logging(key: str, node: dict[str, Any]) -> None:
    """Check that a logging config has only known keys, and names only classes, streams and files of a list.

    Args:
        key: Key of the config, such as `hydra.job_logging`.
        node: The config. Interpolations that cannot be resolved yet are text.

    Raises:
        UserError: It has others.
    """
    _check_keys(key, node, _TOP)
    _check_keys(f"{key}.root", node.get("root"), _PARTS["loggers"])
    for part, allowed in _PARTS.items():
        for name, values in (node.get(part) or {}).items():
            _check_keys(f"{key}.{part}.{name}", values, allowed)


def _check_keys(key: str, node: Any, allowed: set[str]) -> None:
    if node is not None and not isinstance(node, dict):
        raise UserError(f"{key}={node} is not allowed: it must have keys")
    for name, value in (node or {}).items():
        if name not in allowed:
            raise UserError(f"{key}.{name} is not allowed in a logging config; there are {', '.join(sorted(allowed))}")
        if name in _VALUES and value not in _VALUES[name]:
            raise UserError(f"{key}.{name}={value} is not allowed: it may be {', '.join(_VALUES[name])}")
        texts = [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]
        if name not in _VALUES and any(text.startswith(("ext://", "cfg://")) for text in texts):
            raise UserError(f"{key}.{name}={value} is not allowed: it names an object")
