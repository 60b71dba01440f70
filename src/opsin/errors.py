"""Exceptions that are no faults of the program."""

import signal


class UserError(Exception):
    """Something a person can put right: its message names the thing, the place and the way out.

    The command lines print the message alone, without a traceback.
    """


class Interrupted(Exception):  # noqa: N818 - a person or a scheduler asked for it
    """Training was asked to stop and has saved what it needs to go on.

    Attributes:
        signal: SIGINT or SIGTERM.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.signal = number
