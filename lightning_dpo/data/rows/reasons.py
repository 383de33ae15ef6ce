"""Why a row is not a valid pair, in words that a user can act on."""

from collections.abc import Mapping
from typing import Any

IDENTICAL_ANSWERS = "both answers are identical"


class InvalidRow(ValueError):
    """Raised for a row that is not a valid pair. Its argument is the reason: a clause without a final period."""


def reason_of(error: Exception, row: Mapping[str, Any]) -> str:
    """The reason why reading `row` raised `error`.

    >>> reason_of(KeyError("response_-1"), {"prompt": "p", "response_0": "a"})
    "column 'response_-1' is missing; there are prompt, response_0"
    """
    if isinstance(error, InvalidRow):
        reason = str(error)
    elif isinstance(error, KeyError) and error.args and error.args[0] not in row:
        reason = f"column {error.args[0]!r} is missing; there are {', '.join(map(str, row))}"
    else:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    # Reasons quote data, and Arrow and UTF-8 files do not accept lone surrogates.
    return reason.encode(errors="backslashreplace").decode()
