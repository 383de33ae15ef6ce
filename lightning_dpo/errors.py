"""The exceptions for errors that the user can correct, and a record of warnings."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from lightning_dpo.printable import printable


class UserError(ValueError):
    """An error in the data, the config or the environment. Its message states what is wrong and how to correct it.

    The command line prints only the message, without a traceback. In Python, it is a `ValueError`.
    """


class WriteError(UserError):
    """A file could not be written, for example because the disk is full. The run can resume from a checkpoint."""


class LoggedWarning(NamedTuple):
    """A warning that this package logged."""

    logger: str
    level: int
    text: str


@contextmanager
def recorded_warnings() -> Iterator[list[LoggedWarning]]:
    """Context that returns a list, to which the warnings that this package logs are added."""
    found: list[LoggedWarning] = []

    class Recorder(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(LoggedWarning(record.name, record.levelno, printable(record.getMessage())))

    handler, logger = Recorder(logging.WARNING), logging.getLogger("lightning_dpo")
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)
