"""A case of the corpus: a hostile input, and the endings that Opsin may have on it.

Each case ends in a right answer or in one clear error, within a time limit and a memory limit.
"""

import contextlib
import io
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from opsin.commands.dispatch import main_of
from opsin.data.types import BadImage
from opsin.errors import UserError
from opsin.inference.prediction_writers import printable

SECONDS = 20
"""Time limit of a case."""

MEMORY = 2**30
"""Memory limit of a case in bytes, above that before the case."""

INTERNALS = re.compile(
    r"Traceback \(most recent|object at 0x|has no attribute|NoneType|is not subscriptable|unhashable|not iterable"
    r"|unexpected keyword|positional argument|list index out of range|not JSON serializable|recursion depth"
    r"|argument must be|local variable|broadcast"
)
"""Text of Python's own errors, which tells a user nothing."""

Ending = Literal["answer", "refusal", "either"]


@dataclass(frozen=True)
class Case:
    """A hostile input.

    Attributes:
        name: Name, such as `image/png/truncated`.
        act: Makes the input in an empty folder and passes it to Opsin. A refusal is a UserError or a BadImage; a wrong
            answer is an AssertionError.
        ends: The permitted ending.
    """

    name: str
    act: Callable[[Path], object]
    ends: Ending = "either"


class TimeLimit(BaseException):
    """A case exceeded its time limit."""


def fault_of(case: Case, folder: Path) -> str | None:
    """Run a case in an empty folder; return a description of what is wrong, or None."""
    start = memory()
    reset_peak()
    begun = time.monotonic()
    try:
        with time_limit(SECONDS):
            case.act(folder)
        fault = f"{case.name}: not refused" if case.ends == "refusal" else None
    except (UserError, BadImage) as error:
        message = shown(error)
        wrong = fault_of_message(message)
        if wrong is None and case.ends == "answer":
            wrong = "refused"
        fault = wrong and f"{case.name}: {wrong}: {message[:300]!r}"
    except TimeLimit:
        fault = f"{case.name}: still running after {SECONDS} s"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        inside = next(
            (f for f in reversed(traceback.extract_tb(error.__traceback__)) if "/opsin/" in f.filename), place
        )
        text = f"{type(error).__name__}: {str(error)[:200]}"
        fault = f"{case.name}: {text} [{Path(inside.filename).name}:{inside.lineno}]"
    used = peak() - start
    if fault is None and used > MEMORY:
        fault = f"{case.name}: needed {used / 2**20:,.0f} MB, in {time.monotonic() - begun:.1f} s"
    return fault


def fault_of_message(text: str) -> str | None:
    """Return what is wrong with an error message, or None: it is short, clean, and free of Python's own errors."""
    if not text.strip():
        return "empty message"
    if len(text) > 4000 or text.count("\n") > 40:
        return f"message of {len(text)} characters"
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text):
        return "control characters in the message"
    if found := INTERNALS.search(text):
        return f"internals in the message ({found[0]})"
    return None


def shown(error: Exception) -> str:
    """Return the text of an error with control characters escaped, as a terminal shows it."""
    return "\n".join(printable(line) for line in str(error).split("\n"))


def command(*words: str) -> str:
    """Run a command of Opsin in this process and return its stdout; a failure is a UserError with its stderr."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main_of(words[0])(list(words[1:]))
        except SystemExit as stop:  # argparse
            code = int(stop.code or 0) if isinstance(stop.code, int | None) else 1
    printed, errors = _content(out), _content(err)
    if wrong := fault_of_message(errors or "no error"):
        raise AssertionError(f"{wrong}: {errors[:300]!r}")
    if code:
        raise UserError(errors)
    return printed


def _content(stream: io.TextIOWrapper) -> str:
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode()


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeLimit in the block after some seconds."""

    def stop(*_: object) -> None:
        raise TimeLimit

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def memory() -> int:
    """Return the resident memory of this process in bytes; 0 on systems without /proc."""
    return _status("VmRSS")


def peak() -> int:
    """Return the largest resident memory since `reset_peak`, in bytes; 0 on systems without /proc."""
    return _status("VmHWM")


def reset_peak() -> None:
    """Reset the system's measurement of peak resident memory."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0
