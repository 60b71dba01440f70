"""Run `opsin` commands in forked children, which are killed like any other process.

A fork saves the seconds in which torch and Lightning are imported; otherwise a child is a process of its own.
"""

import contextlib
import fnmatch
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Hook = Callable[[], None]
"""Called in the child before the command starts, to inject a fault."""


class Child:
    """A command that runs in a process of its own.

    Args:
        words: The command and its arguments, such as `("train", "model=mlp")`.
        folder: Working directory; the output is added to `printed.txt` there.
        hooks: Faults to inject.
        variables: Environment variables.
    """

    def __init__(
        self, words: Sequence[str], folder: Path, hooks: Sequence[Hook] = (), variables: dict[str, str] | None = None
    ) -> None:
        self.code: int | None = None
        self._output = folder / "printed.txt"
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._run(words, folder, hooks, variables or {})

    def _run(self, words: Sequence[str], folder: Path, hooks: Sequence[Hook], variables: dict[str, str]) -> None:
        code = 70
        try:
            os.setsid()
            os.chdir(folder)
            output = os.open(self._output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.environ.update(variables)
            for hook in hooks:
                hook()
            from opsin.commands.dispatch import main_of

            code = main_of(words[0])(list(words[1:]))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def running(self) -> bool:
        """Return whether the process has not ended."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is None

    def wait(self, seconds: float = 300) -> int:
        """Wait for the end and return the exit code; kill the process after a time limit."""
        deadline = time.monotonic() + seconds
        while self.running():
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"still running after {seconds:.0f} s: {self.printed()[-500:]}")
            time.sleep(0.005)
        assert self.code is not None
        return self.code

    def kill(self) -> None:
        """Kill the process and its children with SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        while self.running():
            time.sleep(0.002)

    def printed(self) -> str:
        """Return the output of all commands in this folder."""
        return self._output.read_text(errors="replace") if self._output.exists() else ""


def die() -> None:
    """Kill this process at once, as a power failure does."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at_step(step: int) -> Hook:
    """Return a hook that kills the process at the start of a training step, counted from 1."""

    def hook() -> None:
        from opsin.training.module import Classifier

        start, count = Classifier.on_train_batch_start, 0

        def counted(self: Any, *arguments: Any) -> Any:
            nonlocal count
            count += 1
            if count == step:
                die()
            return start(self, *arguments)

        Classifier.on_train_batch_start = counted  # type: ignore[method-assign]

    return hook


def kill_on(event: str, pattern: str, time_: int = 1, delay: float = 0.0) -> Hook:
    """Return a hook that kills the process when Python is about to open, rename or link a file.

    Args:
        event: Audit event of Python: `open`, `os.rename` or `os.link`.
        pattern: Pattern of the path.
        time_: Number of the event, counted from 1.
        delay: Seconds from the event to the kill, to hit the middle of a write.
    """
    count = 0

    def watch(name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if name != event or not isinstance(arguments[0], str | os.PathLike):
            return
        if not fnmatch.fnmatch(os.fspath(arguments[0]), pattern):
            return
        count += 1
        if count == time_:
            threading.Timer(delay, die).start() if delay else die()

    return lambda: sys.addaudithook(watch)


def clock_back(at_step: int, seconds: float = 86_400.0) -> Hook:
    """Return a hook that sets the wall clock of the process back by a day at a training step."""

    def hook() -> None:
        from opsin.training.module import Classifier

        start, count, shift, now, now_ns = Classifier.on_train_batch_start, 0, 0.0, time.time, time.time_ns

        def counted(self: Any, *arguments: Any) -> Any:
            nonlocal count, shift
            count += 1
            shift = seconds if count >= at_step else 0.0
            return start(self, *arguments)

        Classifier.on_train_batch_start = counted  # type: ignore[method-assign]
        time.time = lambda: now() - shift
        time.time_ns = lambda: now_ns() - int(shift * 1e9)

    return hook
