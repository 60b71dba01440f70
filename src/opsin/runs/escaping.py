r"""Make text safe for files, pages and consoles: invalid UTF-8 and control characters are escaped.

The name of a file, and so a class name, may hold any byte. Python reads a byte that is not UTF-8 in a file name as a
lone surrogate, which cannot be encoded. `valid_text` escapes such bytes: `k\xe4fer`.

A name may also hold control characters, with which it could change a terminal or hide other output. They are escaped
where text leaves the process: in the streams of a command (`escape_output`), in log records (`EscapeControls`) and in
the consoles of rich (`opsin.runs.rich_console`). Class names are also escaped when a dataset is read, line breaks
included (`opsin.data.split_names.composed`).
"""

import io
import logging
import os
import re
import sys
from typing import IO, Any

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Control characters except tabs and line feeds, and the marks that change the direction of text."""

_BAR = re.compile(r"(\n|\x1b\[A)*")
"""Text that tqdm writes to move the cursor to a progress bar."""


def escape_controls(text: str) -> str:
    r"""Return text with control characters escaped, such as `\x1b`; tabs and line feeds stay."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def valid_text(text: str) -> str:
    r"""Return text that can be encoded as UTF-8; bytes of file names that are not UTF-8 are escaped as `\xe4`."""
    try:
        return text.encode(errors="surrogateescape").decode(errors="backslashreplace")
    except UnicodeEncodeError:  # a surrogate that does not stand for a byte of a file name
        return text.encode(errors="backslashreplace").decode()


class CSVLines:
    r"""A stream for a writer of the module `csv` with its default dialect: lines end with a line feed.

    With `lineterminator="\n"`, Python before 3.13 leaves a carriage return in a cell without quotes, which ends the row
    for every reader. A macOS folder with its own icon has a file named `Icon\r`.

    Args:
        stream: The stream that gets the lines.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, row: str) -> int:
        """Write a row that ends with a carriage return and a line feed, and return the length of its line."""
        return self._stream.write(row.removesuffix("\r\n") + "\n")


class EscapeControls(logging.Filter):
    """Filter of a log handler that escapes control characters in messages and tracebacks."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Escape the record in place; every record passes."""
        record.msg, record.args = escape_controls(record.getMessage()), None
        if record.exc_info:  # a formatter uses this text if it is there
            text = record.exc_text or logging.Formatter().formatException(record.exc_info)
            record.exc_text = escape_controls(text)
        return True


class EscapedStream:
    """A text stream that escapes control characters; all other attributes are those of the wrapped stream.

    A carriage return at the start of a write stays, because the progress bars of libraries need it.

    Args:
        plain: The wrapped stream.

    Attributes:
        plain: The wrapped stream.
    """

    def __init__(self, plain: io.TextIOWrapper) -> None:
        self.plain = plain

    def write(self, text: str) -> int:
        """Write text, and return its length."""
        if _CONTROLS.search(text) and not _BAR.fullmatch(text):
            start = text[:1] if text.startswith("\r") else ""
            self.plain.write(start + escape_controls(text.removeprefix(start)))
        else:
            self.plain.write(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)


def escape_output() -> None:
    r"""Make stdout and stderr escape text that they cannot print safely.

    Control characters are escaped, and characters that the encoding of the stream lacks, such as `\u732b`.
    """
    os.environ.setdefault("PYTHON_COLORS", "0")  # Python 3.13 colors tracebacks
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
            setattr(sys, name, EscapedStream(stream))
