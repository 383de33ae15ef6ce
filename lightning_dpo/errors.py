"""The exceptions for errors that the user can correct."""


class UserError(ValueError):
    """An error in the data, the config or the environment. Its message states what is wrong and how to correct it.

    The command line prints only the message, without a traceback. In Python, it is a `ValueError`.
    """


class WriteError(UserError):
    """A file could not be written, for example because the disk is full. The run can resume from a checkpoint."""
