"""The messages of a run in `train.log`: each epoch has one line, also after a resume."""

import re
from datetime import datetime
from pathlib import Path

from opsin.runs.regular_file import check_regular

_EPOCH = re.compile(rb"\] epoch ([\d.]+)/")
"""Start of the message of an epoch or of a validation within one, after the time and the source."""

_TIME = re.compile(rb"\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)")
"""Start of a message in Opsin's format, with the local time."""


def first_time(file: Path) -> datetime | None:
    """Return the time of the first message; None without one, or if the log has another format."""
    try:
        check_regular(file)
        with file.open("rb") as stream:
            found = _TIME.match(stream.readline(100))
        return datetime.strptime(found[1].decode(), "%Y-%m-%d %H:%M:%S") if found else None
    except (OSError, ValueError):
        return None


def drop_epochs_after(file: Path, epochs: float) -> None:
    """Remove the lines of epochs that a resumed run trains again.

    The file is changed in place, because a handler of this process may have opened it.

    Args:
        file: The log; nothing happens without one, or if it is a link.
        epochs: Number of epochs that are completed; a fraction within an epoch.
    """
    if not file.is_file() or file.is_symlink():  # a link may lead out of the run
        return
    with file.open("r+b") as stream:
        lines = stream.readlines()
        kept = [line for line in lines if not ((found := _EPOCH.search(line)) and float(found[1]) > epochs)]
        if len(kept) < len(lines):
            stream.seek(0)
            stream.writelines(kept)
            stream.truncate()
