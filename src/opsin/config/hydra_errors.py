"""Print an error of Hydra below the suggestion that helps."""

import io
import sys
from typing import TextIO

from opsin.config.suggestions import suggest


class HydraErrors(io.TextIOBase):
    """Standard error while Hydra composes a config.

    Used as a context around `hydra.main`. What Hydra prints is held back until the composition ends: in the job, by
    `release`, or with an error. Afterwards text passes through, because loggers may have kept this stream.
    """

    def __init__(self) -> None:
        self._held: list[str] | None = None
        self._stderr: TextIO = sys.stderr

    def __enter__(self) -> "HydraErrors":
        self._held, self._stderr = [], sys.stderr
        sys.stderr = self
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        sys.stderr = self._stderr
        if self._held is not None and isinstance(error, SystemExit) and error.code == 1:
            suggestion = suggest(sys.argv[1:])
            held = "".join(self._held)
            if suggestion and ("Traceback" in held or held.startswith("Could not override")):
                self._held = []  # neither a traceback nor the advice to append the key helps
            self._stderr.write(f"{suggestion}\n" if suggestion else "")
        self.release()

    def release(self) -> None:
        """Print what was held back, and hold nothing more."""
        held, self._held = self._held, None
        self._stderr.write("".join(held or []))

    def write(self, text: str) -> int:
        """Hold text back, or pass it through."""
        if self._held is None:
            return self._stderr.write(text)
        self._held.append(text)
        return len(text)

    def flush(self) -> None:
        """Flush standard error."""
        self._stderr.flush()

    def fileno(self) -> int:
        """Return the descriptor of standard error."""
        return self._stderr.fileno()

    def isatty(self) -> bool:
        """Return whether standard error is a terminal."""
        return self._stderr.isatty()
