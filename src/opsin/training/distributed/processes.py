"""The processes of one run: how they start, come to one run directory, and all end when one of them dies.

Process 0 composes the config and writes the run directory. It starts the others itself, unless torchrun or srun has;
either way they are told the directory and read the config there, so that nothing is composed, named or logged twice.
"""

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import lightning as L
import torch
from torch.distributed import Store  # type: ignore[attr-defined]

from opsin.errors import Interrupted, UserError
from opsin.runs.directory import RunDirectory
from opsin.training.distributed.environment import TOLD, asked, launched, meeting_place, speak_as_torchrun
from opsin.training.lightning_patches import ScriptLauncher, set_launcher

log = logging.getLogger(__name__)

SCRIPT = Path(__file__).resolve().parents[4] / "train.py"
"""What every process runs."""

MEETING = ("MASTER_ADDR", "MASTER_PORT")
"""Variables that say where the processes meet."""

LOOK_S = 0.25
"""Seconds between looks at the other processes."""

GRACE_S = 5.0
"""Seconds that a process has to end by itself once another has died."""

LOST = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "broken pipe")
"""Words in the errors of those who lose the connection to a process that has died."""


class LostProcess(UserError):  # noqa: N818 - what became of it is the message
    """A process of the run died, and so the run ends: which, and of what."""


class Processes:
    """The processes of a run, seen from one of them; a context around all that they do together.

    Whichever way one of them dies, the context ends in every other within seconds: with `LostProcess`, which says what
    became of it, or by ending the process where it hangs in a collective operation.

    Args:
        run: its directory, on a disk that all share.
    """

    def __init__(self, run: RunDirectory) -> None:
        speak_as_torchrun()
        self._run = run
        self._launched = launched()
        self._rank = self._launched.rank if self._launched else int(os.environ.get("LOCAL_RANK", "0"))
        self._story = run.error
        self._children: list[subprocess.Popen[bytes]] = []
        self._message = ""
        self._store: Store | None = None
        self._ended = threading.Event()
        self._variables = dict(os.environ)

    def __enter__(self) -> Self:
        if self._rank == 0:
            self._story.unlink(missing_ok=True)  # of an earlier end of a run that goes on
        if self._launched:
            threading.Thread(target=self._watch, daemon=True, name="watch").start()
        return self

    def tell(self, resumes: bool) -> None:
        """As process 0: tell the others which run this is; its config is saved."""
        self._message = json.dumps({"run": str(self._run.path), "resumes": resumes, "parent": os.getpid()})
        if self._launched and self._rank == 0:
            self._store = meeting_place(self._launched)
            self._store.set(TOLD, self._message)

    def launch_for(self, trainer: L.Trainer) -> None:
        """See to it that there are as many processes as the trainer has devices, when it begins.

        Raises:
            UserError: torchrun or srun has started another number, or none where there are several machines.
        """
        there = self._launched.world_size if self._launched else None
        if there is not None and there != trainer.world_size:
            raise UserError(
                f"{self._launched.by if self._launched else ''} has started {there} processes, but trainer.devices x "
                f"trainer.num_nodes is {trainer.world_size}: both say how many devices work on the run, each with one "
                "process, so let them be the same"
            )
        strategy = trainer.strategy
        if isinstance(strategy.launcher, ScriptLauncher):
            set_launcher(strategy, Launcher(strategy.launcher, self._start))

    def _start(self, rank: int) -> None:
        variables = {**os.environ, "LOCAL_RANK": str(rank), TOLD: self._message}
        self._children.append(subprocess.Popen([sys.executable, str(SCRIPT)], env=variables))
        if len(self._children) == 1:
            threading.Thread(target=self._watch, daemon=True, name="watch").start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        try:
            if isinstance(error, Exception) and not isinstance(error, Interrupted):
                self._fail(error)
        finally:
            connected = self._children and torch.distributed.is_initialized()
            if connected and (error is None or torch.distributed.get_backend() == "gloo"):  # NCCL waits for the dead
                torch.distributed.destroy_process_group()
            self._end_children(GRACE_S if error is None else 0)
            for name in MEETING:  # so that this process may begin another run
                if self._children and name not in self._variables:
                    os.environ.pop(name, None)

    def _fail(self, error: Exception) -> None:
        """Say what this process failed of, or find out of what another did."""
        if not is_lost_connection(error):
            if self._rank or self._launched:
                self._tell_story(error)
        elif self._rank == 0:
            deadline = time.monotonic() + GRACE_S
            while (reason := self._reason()) is None and time.monotonic() < deadline:
                time.sleep(LOOK_S)
            by = self._launched.by if self._launched else "the console"
            lost = f"the connection to another process was lost, which has died; {by} may say more ({error})"
            raise LostProcess(reason or lost) from error

    def _tell_story(self, error: Exception) -> None:
        """Leave the first failure of all where every process looks."""
        with contextlib.suppress(FileExistsError), self._story.open("x", encoding="utf-8") as file:
            name = f"process {self._rank} (pid {os.getpid()} on {socket.gethostname()})"
            file.write(f"{name} failed: {type(error).__name__}: {error}\n\n")
            file.writelines(traceback.format_exception(error))

    def _reason(self) -> str | None:
        """What became of a process that died; None: all live, as far as can be seen from here."""
        codes = [child.poll() for child in self._children]
        with contextlib.suppress(OSError):
            if story := self._story.read_text(encoding="utf-8").splitlines():
                return f"{story[0]} (the whole traceback is in {self._story})"
        for rank, code in enumerate(codes, 1):
            if code:
                name = f"process {rank} (pid {self._children[rank - 1].pid})"
                if code < 0:
                    return f"{name} was killed by {signal.Signals(-code).name}"
                return f"{name} ended with exit code {code}; it may have said more on the console"
        return None

    def _watch(self) -> None:
        """End this process when another has died and it has not noticed: it waits for what will never come."""
        while not self._ended.wait(LOOK_S):
            if (reason := self._reason()) is None:
                continue
            if self._ended.wait(GRACE_S):
                return
            if self._rank == 0:
                log.error("%s", reason)
                self._run.record_failure(f"LostProcess: {reason}")
            self._end_children(0)
            os._exit(1)

    def _end_children(self, patience: float) -> None:
        """Wait so many seconds for the processes that were started here to end; kill those that do not."""
        deadline = time.monotonic() + patience
        for child in self._children:
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


class Launcher(ScriptLauncher):
    """Starts the other processes of a run on this machine, once; Lightning's own would start the command line again.

    Args:
        like: Lightning's own.
        start: starts the process of a rank.
    """

    def __init__(self, like: ScriptLauncher, start: Callable[[int], None]) -> None:
        super().__init__(like.cluster_environment, like.num_processes, like.num_nodes)
        self._start = start
        self._started = False

    def launch(self, function: Callable[..., Any], *args: Any, trainer: L.Trainer | None = None, **kwargs: Any) -> Any:
        """Call a function of the trainer, in every process."""
        environment = self.cluster_environment
        if not self._started and not environment.creates_processes_externally:
            for name, value in zip(MEETING, (environment.main_address, str(environment.main_port)), strict=True):
                os.environ.setdefault(name, value)
            for rank in range(1, self.num_processes):
                self._start(rank)
        self._started = True
        return function(*args, **kwargs)


def where_to_join() -> tuple[RunDirectory, bool]:
    """As a further process: the run to work on, and whether it is one that goes on; waits until process 0 says so.

    The process ends with the one that started it, and leaves it to that one to be told to stop.

    Raises:
        UserError: process 0 says nothing.
    """
    speak_as_torchrun()
    told = os.environ.pop(TOLD, None)
    if told is None:
        found = launched()
        if found is None:
            raise UserError(
                "LOCAL_RANK or RANK is set, which makes this one of several processes, but nobody has started it as "
                "such: unset it, or start all of them by torchrun or srun"
            )
        told = asked(found)
    message = json.loads(told)
    if launched() is None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=_end_with, args=(message["parent"],), daemon=True, name="parent").start()
    return RunDirectory(Path(message["run"])), bool(message["resumes"])


def has_told(run: RunDirectory) -> bool:
    """Whether a process has said of what it failed."""
    return run.error.exists()


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error only says that another process cannot be reached."""
    words = str(error).lower()
    known = isinstance(error, torch.distributed.DistError)
    return known or (isinstance(error, RuntimeError) and any(word in words for word in LOST))


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    os._exit(1)
