"""The one exception that means: the user can mend this, and the message says how."""


class UserError(ValueError):
    """A mistake in the data, the config or the set-up, explained whole by its message.

    The command line prints the message alone, without a traceback; in Python it is a `ValueError` like any other.
    """
