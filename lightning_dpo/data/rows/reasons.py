"""Why a row is not a valid pair, in words that a user can act on."""

import re
from collections.abc import Mapping
from typing import Any

from lightning_dpo.printable import one_line

IDENTICAL_ANSWERS = "both answers are identical"

_LONGEST = 40  # characters of an excerpt
_LONGEST_REASON = 400
_EXCERPT = re.compile(r" \((after \d|[-\d'\"\[{]).*\)")


class InvalidRow(ValueError):
    """Raised for a row that is not a valid pair. Its argument is the reason: a clause without a final period."""


def reason_of(error: Exception, row: Mapping[str, Any]) -> str:
    """The reason why reading `row` raised `error`.

    >>> reason_of(KeyError("response_-1"), {"prompt": "p", "response_0": "a"})
    "column 'response_-1' is missing; there are prompt, response_0"
    """
    if isinstance(error, InvalidRow):
        reason = str(error)
    elif isinstance(error, RecursionError):
        reason = "the row is nested too deeply"
    elif isinstance(error, KeyError) and error.args and error.args[0] not in row:
        reason = f"column {error.args[0]!r} is missing; there are {', '.join(map(str, row))}"
    else:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    # Reasons quote data, and Arrow and UTF-8 files do not accept lone surrogates.
    reason = reason.encode(errors="backslashreplace").decode()
    return reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]}..."


def found(value: Any) -> str:
    """What `value` is, with a short excerpt, for the end of "must be text, not ...".

    >>> found(None), found(5), found(["a", "b"]), found({"answer": "a"})
    ('null', 'a number (5)', "a list (['a', 'b'])", "an object ({'answer': 'a'})")
    """
    if value is None:
        return "null"
    names: dict[type, str] = {
        bool: "a bool", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object",
    }  # fmt: skip
    kind = next((name for of, name in names.items() if isinstance(value, of)), type(value).__name__)
    return f"{kind} ({excerpt(value)})"


def excerpt(value: Any) -> str:
    """The start of `value` as text in one line.

    >>> excerpt("a" * 100) == "'" + "a" * 36 + "..."
    True
    """
    text = one_line(f"{value!r:.{_LONGEST + 1}}")
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def without_excerpts(reason: str) -> str:
    """A reason without its excerpts from the row, to count rows with the same reason.

    >>> without_excerpts("chosen must be text or messages, not a number (5)")
    'chosen must be text or messages, not a number'
    """
    return _EXCERPT.sub("", reason)
