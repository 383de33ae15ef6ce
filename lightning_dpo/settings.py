"""Nested settings: flattened, compared, and without secrets."""

import re
from collections.abc import Mapping
from typing import Any

# Words of a key that make it a secret: anywhere, as its last word only, and those that do so before `key`.
_ANYWHERE = (
    "apikey", "accesskey", "authorization", "bearer", "credential", "credentials", "jwt", "passphrase", "passwd",
    "password", "pwd", "secret", "secretkey", "token", "webhook",
)  # fmt: skip
_AT_THE_END = (
    "auth", "cookie", "cookies", "dsn", "kubeconfig", "otp", "pass", "pat", "pin", "pw", "sas", "secrets", "session",
)  # fmt: skip
_BEFORE_KEY = ("access", "account", "api", "encryption", "license", "private", "secret", "signing", "ssh")
# `token` is not a secret after the name of a special token, nor before these words.
_SPECIAL = (
    "bos", "eos", "pad", "unk", "mask", "sep", "cls", "image", "video", "audio", "stop", "start", "end", "special",
    "boi", "eoi", "eot", "eom", "new",
)  # fmt: skip
_AFTER_TOKEN = (
    "id", "ids", "type", "types", "index", "indices", "dropout", "loss", "mask", "weight", "embedding", "count",
)  # fmt: skip
# A path to a secret is not a secret.
_HARMLESS_END = ("file", "path", "folder", "dir", "name")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
# Known formats of keys, and credentials in URLs and headers.
_SECRET_VALUE = re.compile(
    r"\b(hf_[A-Za-z0-9]{30,}|sk-[\w-]{32,}|gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{40,}|xox[abprs]-[\w-]{20,}|AKIA[A-Z0-9]{16})"
    r"|\b[Bb]earer\s+[\w.-]{4,}|hooks\.slack\.com/services/\w+"
)
_IN_URL = re.compile(r"://(?!git@)[^/\s@'\"]+@")
# A key that is set, at the start of an override, in a dict, or as NAME=VALUE in a text. `${oc.env:NAME}` without a
# default only refers to a secret, and is allowed.
_SET = re.compile(
    r"(?:^[+~]*|[{\[,\s'\"])['\"]?([\w./-]+)['\"]?\s*[=:]\s*(?!['\"]?\$\{oc\.env:\w+\}['\"]?\s*(?:[,}\]]|$))(?=[^\s,}\]])"
)

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
    return _SECRET_VALUE.sub("(secret)", _IN_URL.sub("://(secret)@", config)) if isinstance(config, str) else config


def secret_in(override: str) -> str | None:
    """The key of a secret in an override, or None.

    >>> secret_in("+logger.mlflow={tracking_token: abc}"), secret_in("data.path=/data/token=1")
    ('tracking_token', None)
    """
    named = (match[1] for match in _SET.finditer(override) if any(map(is_secret, re.split("[./]", match[1]))))
    key, _, value = override.partition("=")
    return next(named, key if _IN_URL.search(value) or _SECRET_VALUE.search(value) else None)


def is_secret(key: object) -> bool:
    """Whether a config key looks like a secret.

    >>> [name for name in ("api_key", "hfToken", "max_tokens", "eos_token", "password_file") if is_secret(name)]
    ['api_key', 'hfToken']
    """
    words = [word.lower() for word in _WORD.findall(str(key))]
    if not words or words[-1] in _HARMLESS_END:
        return False
    for before, word, after in zip(["", *words], words, [*words[1:], ""], strict=False):
        if word == "token" and (before in _SPECIAL or after in _AFTER_TOKEN):
            continue
        if word in _ANYWHERE or (word == "key" and before in _BEFORE_KEY):
            return True
    last = words[-2] if words[-1] in ("id", "value") and len(words) > 1 else words[-1]
    return last in _AT_THE_END or words == ["key"]
