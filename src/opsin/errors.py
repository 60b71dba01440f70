"""Errors that a user can correct, the place of an error in code of the user, and the suggestion of the nearest name."""

import difflib
import signal
import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class UserError(Exception):
    """An error that the user can correct. The message names the thing, the place and what to do about it.

    Commands, Jupyter and IPython print the message without a traceback.
    """

    def _render_traceback_(self) -> list[str]:
        """Return the lines that IPython shows instead of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class Interrupted(Exception):  # noqa: N818 - a request, not an error
    """Training stopped on a signal and saved a checkpoint to resume from.

    Attributes:
        signal: SIGINT or SIGTERM.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.signal = number


class RestartTraining(Exception):  # noqa: N818 - a request, not an error
    """Training must begin again in this process, from the last checkpoint and with another config.

    Attributes:
        config: The config, a `opsin.config.RunConfig`.
    """

    def __init__(self, config: Any) -> None:
        super().__init__("training begins again with another config")
        self.config = config


def in_own_code(error: BaseException) -> str:
    """Return the type and the message of an error, with its place in code of the user: the innermost such line.

    Code of the user lies neither in Opsin, nor in an installed package, nor in Python. Without such a line, the text
    has no place.
    """
    message = f"{type(error).__name__}: {error}".removesuffix(": ")
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if frame.line and not is_installed(path):
            shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
            return f"{message} ({shown}:{frame.lineno}, in {frame.name}: {frame.line})"
    return message


def is_installed(path: Path) -> bool:
    """Return whether a file belongs to Opsin, an installed package or Python."""
    roots = (Path(__file__).parent, sysconfig.get_path("stdlib"))
    in_packages = {"site-packages", "dist-packages"} & set(path.parts)
    return bool(in_packages) or str(path).startswith("<frozen ") or any(path.is_relative_to(root) for root in roots)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error is an out-of-memory error, of the machine or of its accelerator."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    signs = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


def did_you_mean(word: str, known: Iterable[str], prefix: str = "", count: int = 1) -> str:
    """Return `: did you mean NAME?` for the known names most similar to an unknown word.

    Args:
        word: The unknown word. Upper and lower case count as equal.
        known: The valid names.
        prefix: Text before each name in the suggestion, such as `model.`.
        count: Number of names to suggest at most.

    Returns:
        The end of a sentence, or an empty string if no name is similar.
    """
    near = nearest(word, known, count)
    return f": did you mean {' or '.join(prefix + name for name in near)}?" if near else ""


CUTOFF = 0.5
"""Smallest similarity of a suggested name, unless the caller asks for more."""


def nearest(word: str, known: Iterable[str], count: int = 1, cutoff: float = CUTOFF) -> list[str]:
    """Return the known names most similar to a word, the most similar first; upper and lower case count as equal.

    Of equally similar names the first in alphabetical order comes first. Similarity is the ratio of
    `difflib.SequenceMatcher`: twice the number of matching characters, divided by the sum of both lengths.
    """
    names = {name.lower(): name for name in known}
    matcher = difflib.SequenceMatcher(b=word.lower())

    def similarity(name: str) -> float:
        matcher.set_seq1(name)
        return matcher.ratio()

    ranked = sorted((-similarity(name), name) for name in names)
    return [names[name] for negative, name in ranked if -negative >= cutoff][:count]
