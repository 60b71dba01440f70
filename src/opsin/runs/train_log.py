"""The messages of a run in `train.log`: each epoch has one line, also after a resume."""

import re
from pathlib import Path

_EPOCH = re.compile(rb"\] epoch ([\d.]+)/")
"""Start of the message of an epoch or of a validation within one, after the time and the source."""


def drop_epochs_after(file: Path, epochs: float) -> None:
    """Remove the lines of epochs that a resumed run trains again.

    The file is changed in place, because a handler of this process may have opened it.

    Args:
        file: The log; nothing happens without one.
        epochs: Number of epochs that are completed; a fraction within an epoch.
    """
    if not file.is_file():
        return
    with file.open("r+b") as stream:
        lines = stream.readlines()
        kept = [line for line in lines if not ((found := _EPOCH.search(line)) and float(found[1]) > epochs)]
        if len(kept) < len(lines):
            stream.seek(0)
            stream.writelines(kept)
            stream.truncate()
