"""Read files whose content is not trusted: only regular files, because a pipe or a device may never end."""

import stat
from pathlib import Path


class NotRegularError(ValueError):
    """A path leads to a folder, pipe, device or circle of links where a file is expected."""


def check_regular(path: Path) -> None:
    """Check that a path leads to a regular file.

    Raises:
        FileNotFoundError: There is nothing at the path.
        NotRegularError: It leads to something else.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise
    except OSError as error:
        raise NotRegularError(error.strerror or str(error)) from None
    if not stat.S_ISREG(mode):
        raise NotRegularError(f"it is a {'folder' if stat.S_ISDIR(mode) else 'pipe or device'}, not a file")
