"""Checks of the arguments of `PreferenceDataModule`."""

from collections.abc import Iterable, Mapping
from typing import Any


def check_arguments(arguments: dict[str, Any]) -> None:
    """Check the values of arguments.

    Raises:
        ValueError: An argument has an invalid value; the message contains the valid ones.
    """
    choices: dict[str, Iterable[str]] = {
        "on_overlong": ("drop", "truncate"), "on_invalid": ("error", "drop"), "score": ("last", "all"),
        "layout": ("auto", "shared", "padded"),
    }  # fmt: skip
    for name, allowed in choices.items():
        if arguments[name] not in allowed:
            raise ValueError(f"{name} must be {' or '.join(allowed)}, got {arguments[name]!r}")
    if arguments["batch_size"] == "auto" and arguments["pairs_per_step"] is None:
        raise ValueError("batch_size=auto needs pairs_per_step, which it divides")
    optional = {"max_pairs": None, "pairs_per_step": None, "max_tokens": None, "num_proc": None, "batch_size": "auto"}
    for name in ("max_length", "num_workers", "seed", *optional):
        value, least = arguments[name], 0 if name in ("num_workers", "seed") else 1
        other = name in optional and value == optional[name]
        if not other and not (_is(int, value) and value >= least):
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    if not (_is(int | float, arguments["val_fraction"]) and 0 < arguments["val_fraction"] < 1):
        raise ValueError(f"val_fraction must be between 0 and 1, got {arguments['val_fraction']!r}")
    if not (_is(int | float, arguments["max_invalid_fraction"]) and 0 <= arguments["max_invalid_fraction"] <= 1):
        raise ValueError(f"max_invalid_fraction must be in [0, 1], got {arguments['max_invalid_fraction']!r}")
    source = arguments["source"]
    for one in source.values() if isinstance(source, Mapping) else [source]:
        if one is not None and not callable(one):
            raise ValueError(f"source must be a function that converts a row to a pair, such as hh_pair, got {one!r}")


def _is(kind: Any, value: object) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def without_effect(arguments: Mapping[str, Any]) -> dict[str, str]:
    """The arguments that have no effect in combination with the others, and why.

    >>> without_effect({"path": "train.jsonl", "rows": {"name": "org/data"}})["rows"]
    'data.path is read instead; set only one of the two'
    """
    found = {}
    rows, path = arguments.get("rows") or {}, arguments.get("path")
    if arguments.get("val_path"):
        found["val_fraction"] = "data.val_path contains the validation pairs; set only one of the two"
        found["rows.validation"] = "data.val_path is read instead; set only one of the two"
    elif not path and rows.get("validation"):
        found["val_fraction"] = (
            "the dataset has its own validation split; to hold out a fraction instead, set data.rows.validation=null"
        )
    if "name" in arguments and rows.get("name") != arguments["name"]:
        found["name"] = "only data=hub reads it; for another dataset, set data.rows.name"
    if isinstance(path, str):
        found["rows"] = "data.path is read instead; set only one of the two"
    if arguments.get("on_invalid") == "error":
        found["max_invalid_fraction"] = (
            "data.on_invalid=error allows no invalid rows; to allow some, set data.on_invalid=drop"
        )
    return found
