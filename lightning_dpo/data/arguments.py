"""Values of `PreferenceDataModule`'s arguments that are refused."""

from collections.abc import Iterable
from typing import Any


def check_arguments(arguments: dict[str, Any]) -> None:
    """Refuse values that an argument cannot have.

    Raises:
        ValueError: Names the argument, what it may be, and what it was.
    """
    choices: dict[str, Iterable[str]] = {
        "on_overlong": ("drop", "truncate"), "on_invalid": ("error", "drop"), "score": ("last", "all"),
        "layout": ("auto", "shared", "padded"),
    }  # fmt: skip
    for name, allowed in choices.items():
        if arguments[name] not in allowed:
            raise ValueError(f"{name} must be {' or '.join(allowed)}, got {arguments[name]!r}")
    for name in ("max_length", "batch_size", "max_pairs", "pairs_per_step", "max_tokens"):
        if arguments[name] is not None and not arguments[name] >= 1:
            raise ValueError(f"{name} must be at least 1, got {arguments[name]!r}")
    if not 0 < arguments["val_fraction"] < 1:
        raise ValueError(f"val_fraction must be between 0 and 1, got {arguments['val_fraction']!r}")
    if not 0 <= arguments["max_invalid_fraction"] <= 1:
        raise ValueError(f"max_invalid_fraction must be in [0, 1], got {arguments['max_invalid_fraction']!r}")
