"""Checks of the values of a loss."""

import math
from collections.abc import Callable


def check_number(name: str, value: object, what: str, valid: Callable[[float], bool] = lambda value: True) -> None:
    """Check a value of a loss.

    Args:
        name: Name of the value.
        value: The value.
        what: Description of a valid value, for the message.
        valid: Whether a finite number is valid.

    Raises:
        ValueError: It is not a finite number, or it is not valid.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not valid(value):  # type: ignore[arg-type]  # `number` is False for other types
        raise ValueError(f"{name} must be {what}, got {value!r}")


def check_label_smoothing(value: object, positive: bool = False) -> None:
    """Check ε, the probability that a label is wrong; raises ValueError."""
    start = "(" if positive else "["
    check_number(
        "label_smoothing",
        value,
        f"in {start}0, 0.5)",
        lambda epsilon: (epsilon > 0 or not positive) and 0 <= epsilon < 0.5,
    )
