r"""Text from file names that any file, page or console can take.

Python reads a byte that is not UTF-8 in a file name as a lone surrogate, which cannot be encoded. Names for outputs
show such bytes escaped: `k\xe4fer`.
"""

import io
import sys
from pathlib import Path

from opsin.errors import UserError


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
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is damaged (byte {error.start} is not UTF-8 text): {way_out}") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror or error}): {way_out}") from None


def valid_text(text: str) -> str:
    r"""Return text that can be encoded as UTF-8; bytes of file names that are not UTF-8 are escaped as `\xe4`."""
    try:
        return text.encode(errors="surrogateescape").decode(errors="backslashreplace")
    except UnicodeEncodeError:  # a surrogate that does not stand for a byte of a file name
        return text.encode(errors="backslashreplace").decode()


def accept_any_text() -> None:
    r"""Let stdout and stderr print all text: characters that their encoding lacks are escaped, such as `\u732b`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
