"""Durations as text, in the form of `trainer.max_time`."""

import re

from opsin.errors import UserError


def seconds_of(key: str, duration: str) -> int:
    """Return the seconds of a duration in days, hours, minutes and seconds, such as "00:02:00:00" for two hours.

    Args:
        key: The key of the config that holds the duration.
        duration: The text, `DD:HH:MM:SS`.

    Raises:
        UserError: The text has another form.
    """
    if not re.fullmatch(r"[0-9]+(:[0-9]{2}){3}", duration):
        raise UserError(
            f"{key}={duration} is not a duration: write days, hours, minutes and seconds as DD:HH:MM:SS, such as "
            "00:02:00:00 for two hours"
        )
    days, hours, minutes, seconds = map(int, duration.split(":"))
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
