r"""Text from file names that any file, page or console can take.

Python reads a byte that is not UTF-8 in a file name as a lone surrogate, which cannot be encoded. Names for outputs
show such bytes escaped: `k\xe4fer`.
"""

import io
import sys


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
