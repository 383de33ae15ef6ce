"""Text from data, models and other people's files, without characters that control a terminal or a page."""

import io
import logging
import os
import re
import sys

# C0 and C1 control characters except tab and newline, and those that change the direction of text.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_NOT_IN_A_NAME = re.compile(r"[^\w .,:+/@=-]+")
_LONGEST_NAME = 80
_SHORTEST_HIDDEN = 6  # a shorter value, such as "1", occurs by chance
_hidden: dict[str, str] = {}


def printable(text: str) -> str:
    r"""`text` with control characters as escape sequences. Tabs and newlines are kept.

    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    for value, name in _hidden.items():
        text = text.replace(value, name)
    return _escaped(text)


def escape_unencodable() -> None:
    """From now on, standard output shows characters that its encoding lacks as escape sequences.

    Otherwise, a terminal or pipe that is not UTF-8 would end a run with an exception when an answer is printed.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # not in a notebook
        sys.stdout.reconfigure(errors="backslashreplace")


def hide_environment(config: str) -> None:
    """From now on, `printable` replaces the values of environment variables that a config refers to.

    Args:
        config: The config as text, with interpolations such as `${oc.env:NAME}`.
    """
    for name in re.findall(r"\$\{oc\.env:(\w+)", config):
        if len(value := os.environ.get(name, "")) >= _SHORTEST_HIDDEN:
            _hidden[value] = f"${{oc.env:{name}}}"


def one_line(text: str) -> str:
    """`printable(text)` in one line."""
    return " ".join(printable(text).split())


def name_of(text: str) -> str:
    """`text` as a name in metrics, tables and file headers.

    >>> name_of("<script>  a|b")
    '_script_ a_b'
    """
    return _NOT_IN_A_NAME.sub("_", " ".join(_escaped(text).split()))[:_LONGEST_NAME].strip()


def ending(text: str, length: int) -> str:
    """The last characters of a text, from the start of a word.

    >>> ending("the end of a prompt", 12), ending("short", 12)
    ('… of a prompt', 'short')
    """
    if len(text) <= length:
        return text
    # The word before the cut is whole if a space follows it.
    start = re.search(r"\s\S", text[-length - 1 :])
    return f"… {text[-length - 1 :][start.start() + 1 :] if start else text[-length:]}"


def _escaped(text: str) -> str:
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


class Printable(logging.Filter):
    """Escapes control characters in the messages of a log handler."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Replace the message. Always True."""
        record.msg, record.args = printable(record.getMessage()), ()
        return True
