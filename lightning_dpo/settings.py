"""Nested settings: flat, to be compared, and without secrets, to be written down."""

import re
from collections.abc import Mapping
from typing import Any

_SECRET = re.compile(r"api_?key|secret|password|passwd|credential|(^|_)(access_?)?token$", re.IGNORECASE)

_OF_AN_ATTEMPT = ("run_folder", "run_name", "ckpt_path", "sweep_folder", "logger", "hydra")


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names.

    >>> flat({"loss": {"beta": 0.1}, "seed": 0})
    {'loss.beta': 0.1, 'seed': 0}
    """
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def compared(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What of a run's settings says what it does, without what says where or how often it was begun, or who watches.

    >>> compared({"run_folder": "outputs/x", "loss": {"beta": 0.1}})
    {'loss': {'beta': 0.1}}
    """
    return {name: value for name, value in settings.items() if name not in _OF_AN_ATTEMPT}


def without_secrets(config: Any) -> Any:
    """`config` with the value of every key that sounds like a secret replaced.

    >>> without_secrets({"logger": {"api_key": "abc", "project": "p"}})
    {'logger': {'api_key': '(secret)', 'project': 'p'}}
    """
    if isinstance(config, dict):
        return {
            key: "(secret)" if is_secret(key) and isinstance(value, str) else without_secrets(value)
            for key, value in config.items()
        }
    return [without_secrets(value) for value in config] if isinstance(config, list) else config


def is_secret(key: object) -> bool:
    """Whether a config key sounds like a secret.

    >>> is_secret("api_key"), is_secret("max_tokens"), is_secret("tokenizer")
    (True, False, False)
    """
    return bool(_SECRET.search(str(key)))
