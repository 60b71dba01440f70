"""The processes of one run: how they start, share one run directory, and end together when one of them dies.

Process 0 composes the config and writes the run directory. It starts the other processes unless torchrun or srun has
started them. They receive the directory and read the config there, so that nothing is composed or logged twice.
"""

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
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

from opsin.config.locations import module_path, train_process
from opsin.errors import Interrupted, UserError
from opsin.runs.directory import RunDirectory
from opsin.runs.secret_values import mask_secrets
from opsin.training.distributed.environment import (
    RUN_VARIABLE,
    launched,
    receive_message,
    rendezvous_store,
    set_torchrun_variables,
)
from opsin.training.lightning_patches import ScriptLauncher, set_launcher

log = logging.getLogger(__name__)

MEETING = ("MASTER_ADDR", "MASTER_PORT")
"""Environment variables with the address of the rendezvous."""

LOOK_S = 0.25
"""Seconds between checks of the other processes."""

GRACE_S = 5.0
"""Seconds in which a process must end by itself after another has died."""

LOST = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "broken pipe")
"""Words in errors about a lost connection to another process."""


class LostProcess(UserError):  # noqa: N818 - the name is the message
    """A process of the run died, which ends the run. The message names the process and the cause."""


def check_process_count(devices: int) -> None:
    """Check that torchrun or srun, if one of them started this process, started one process per device.

    Args:
        devices: Number of devices of the run, over all machines.

    Raises:
        UserError: It started another number of processes, or its variables are left over from another program.
    """
    found = launched()
    if found is None or found.world_size == devices:
        return
    alone = ", or unset RANK and WORLD_SIZE to train in one process" if found.by == "torchrun" else ""
    raise UserError(
        f"{found.by} started {found.world_size} processes, but trainer.devices x trainer.num_nodes = {devices}; make "
        f"them equal{alone}"
    )


class Processes:
    """The processes of a run, seen from one of them; a context around their joint work.

    If one process dies, the context ends in all others within seconds: with `LostProcess`, which names the cause, or by
    ending a process that hangs in a collective operation.

    Args:
        run: The run directory, on a disk that all processes share.
    """

    def __init__(self, run: RunDirectory) -> None:
        set_torchrun_variables()
        self._run = run
        self._launched = launched()
        self._rank = self._launched.rank if self._launched else int(os.environ.get("LOCAL_RANK", "0"))
        self._failure_file = run.error
        self._children: list[subprocess.Popen[bytes]] = []
        self._message = ""
        self._store: Store | None = None
        self._ended = threading.Event()
        self._variables = dict(os.environ)

    def __enter__(self) -> Self:
        if self._rank == 0:
            self._failure_file.unlink(missing_ok=True)  # left by an earlier attempt of a resumed run
        if self._launched:
            threading.Thread(target=self._watch, daemon=True, name="watch").start()
        return self

    def send_run(self, resumes: bool) -> None:
        """Send the run directory from process 0 to the others, after its config is saved."""
        self._message = json.dumps({"run": str(self._run.path), "resumes": resumes, "parent": os.getpid()})
        if self._launched and self._rank == 0:
            self._store = rendezvous_store(self._launched)
            self._store.set(RUN_VARIABLE, self._message)

    def launch_for(self, trainer: L.Trainer) -> None:
        """Arrange that one process per device runs when the trainer begins."""
        strategy = trainer.strategy
        if isinstance(strategy.launcher, ScriptLauncher):
            set_launcher(strategy, Launcher(strategy.launcher, self._start))

    def _start(self, rank: int) -> None:
        variables = {**os.environ, "PYTHONPATH": module_path(), "LOCAL_RANK": str(rank), RUN_VARIABLE: self._message}
        self._children.append(subprocess.Popen(train_process(), env=variables))
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
            for name in MEETING:  # this process may begin another run
                if self._children and name not in self._variables:
                    os.environ.pop(name, None)

    def _fail(self, error: Exception) -> None:
        """Report the failure of this process, or raise that of another process."""
        if not is_lost_connection(error):
            if self._rank or self._launched:
                self._report_failure(error)
        elif self._rank == 0:
            deadline = time.monotonic() + GRACE_S
            while (reason := self._reason()) is None and time.monotonic() < deadline:
                time.sleep(LOOK_S)
            by = self._launched.by if self._launched else "the console"
            lost = f"the connection to another process was lost; see the output of {by} for the cause ({error})"
            raise LostProcess(reason or lost) from error

    def _report_failure(self, error: Exception) -> None:
        """Write the first failure to the file that every process reads."""
        with contextlib.suppress(FileExistsError), self._failure_file.open("x", encoding="utf-8") as file:
            name = f"process {self._rank} (pid {os.getpid()} on {socket.gethostname()})"
            text = "".join(traceback.format_exception(error))
            file.write(mask_secrets(f"{name} failed: {type(error).__name__}: {error}\n\n{text}"))

    def _reason(self) -> str | None:
        """Return the cause of death of a process; None if all known processes live."""
        codes = [child.poll() for child in self._children]
        with contextlib.suppress(OSError):
            if lines := self._failure_file.read_text(encoding="utf-8").splitlines():
                return f"{lines[0]} (full traceback in {self._failure_file})"
        for rank, code in enumerate(codes, 1):
            if code:
                name = f"process {rank} (pid {self._children[rank - 1].pid})"
                if code < 0:
                    return f"{name} was killed by {signal.Signals(-code).name}"
                return f"{name} ended with exit code {code}; see the console for its output"
        return None

    def _watch(self) -> None:
        """End this process if another has died: it may wait forever in a collective operation."""
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
        """Wait some seconds for the started processes to end, and kill those that do not."""
        deadline = time.monotonic() + patience
        for child in self._children:
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


class Launcher(ScriptLauncher):
    """Start the other processes of a run on this machine, once; Lightning would start the command line again.

    Args:
        like: The launcher of Lightning.
        start: Function that starts the process of a rank.
    """

    def __init__(self, like: ScriptLauncher, start: Callable[[int], None]) -> None:
        super().__init__(like.cluster_environment, like.num_processes, like.num_nodes)
        self._start = start
        self._started = False

    def launch(self, function: Callable[..., Any], *args: Any, trainer: L.Trainer | None = None, **kwargs: Any) -> Any:
        """Start the processes at the first call, and call a function of the trainer."""
        environment = self.cluster_environment
        if not self._started and not environment.creates_processes_externally:
            for name, value in zip(MEETING, (environment.main_address, str(environment.main_port)), strict=True):
                os.environ.setdefault(name, value)
            for rank in range(1, self.num_processes):
                self._start(rank)
        self._started = True
        return function(*args, **kwargs)


def receive_run() -> tuple[RunDirectory, bool]:
    """Wait for the run from process 0; return its directory and whether it is resumed.

    A process that process 0 started ends with it and ignores Ctrl-C, which process 0 handles.

    Raises:
        UserError: Process 0 sends nothing.
    """
    set_torchrun_variables()
    text = os.environ.pop(RUN_VARIABLE, None)
    if text is None:
        found = launched()
        if found is None:
            raise UserError(
                "LOCAL_RANK or RANK is set, but no launcher started this process as one of several; "
                "unset both variables, or start all processes with torchrun or srun"
            )
        text = receive_message(found)
    message = json.loads(text)
    if launched() is None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=_end_with, args=(message["parent"],), daemon=True, name="parent").start()
    return RunDirectory(Path(message["run"])), bool(message["resumes"])


def has_reported_failure(run: RunDirectory) -> bool:
    """Return whether a process has reported a failure."""
    return run.error.exists()


def is_lost_connection(error: BaseException) -> bool:
    """Return whether an error only says that another process cannot be reached."""
    words = str(error).lower()
    known = isinstance(error, torch.distributed.DistError)
    return known or (isinstance(error, RuntimeError) and any(word in words for word in LOST))


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    os._exit(1)
