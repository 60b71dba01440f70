"""Read files whose content is not trusted: only regular files, because a pipe or a device may never end."""

import stat
from pathlib import Path

from opsin.errors import UserError


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


def read_text(file: Path, way_out: str) -> str:
    """Return the text of a file that Opsin has written, in UTF-8.

    Args:
        file: The file.
        way_out: Advice for a damaged file, the end of the message.

    Raises:
        FileNotFoundError: There is no such file.
        UserError: The file is not UTF-8 text, or cannot be read.
    """
    try:
        check_regular(file)
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise
    except NotRegularError as error:
        raise UserError(f"{file} cannot be read ({error}): {way_out}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is damaged (byte {error.start} is not UTF-8 text): {way_out}") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror or error}): {way_out}") from None
