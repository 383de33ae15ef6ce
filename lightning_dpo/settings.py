"""Nested settings: flattened, compared, and without secrets."""

import re
from collections.abc import Mapping
from typing import Any

_SECRET = re.compile(
    r"(api|access|private)_?key|secret|passw|pwd|credential|bearer|authorization|(?<!bos)(?<!eos)(?<!pad)(?<!unk)(^|_)token$",
    re.IGNORECASE,
)
_IN_URL = re.compile(r"://[^/\s:@]*:[^/\s@]+@")
# A key that is set, at the start of an override or in a dict. `${oc.env:NAME}` only refers to a secret, and is allowed.
_SET = re.compile(r"(?:^[+~]*|[{,\s])['\"]?([\w./-]+)['\"]?\s*[=:]\s*(?!\$\{oc\.env:)(?=\S)")

_OF_ATTEMPT = ("run_folder", "run_name", "ckpt_path", "sweep_folder", "logger", "hydra")


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
    """The settings that determine the result of a run, without those of its location, attempt and loggers.

    >>> compared({"run_folder": "outputs/x", "loss": {"beta": 0.1}})
    {'loss': {'beta': 0.1}}
    """
    return {name: value for name, value in settings.items() if name not in _OF_ATTEMPT}


def without_secrets(config: Any) -> Any:
    """`config` without the values of keys that look like secrets, and without passwords in URLs.

    >>> without_secrets({"logger": {"api_key": "abc", "uri": "https://me:abc@host"}})
    {'logger': {'api_key': '(secret)', 'uri': 'https://(secret)@host'}}
    """
    if isinstance(config, dict):
        return {
            key: "(secret)" if is_secret(key) and isinstance(value, str) else without_secrets(value)
            for key, value in config.items()
        }
    if isinstance(config, list):
        return [without_secrets(value) for value in config]
    return _IN_URL.sub("://(secret)@", config) if isinstance(config, str) else config


def secret_in(override: str) -> str | None:
    """The key of a secret in an override, or None.

    >>> secret_in("+logger.mlflow={tracking_token: abc}"), secret_in("data.path=/data/token=1")
    ('tracking_token', None)
    """
    named = (match[1] for match in _SET.finditer(override) if is_secret(match[1].rpartition(".")[2]))
    return next(named, override.partition("=")[0] if _IN_URL.search(override) else None)


def is_secret(key: object) -> bool:
    """Whether a config key looks like a secret.

    >>> [name for name in ("api_key", "hf_token", "max_tokens", "tokenizer", "eos_token") if is_secret(name)]
    ['api_key', 'hf_token']
    """
    return bool(_SECRET.search(str(key)))
