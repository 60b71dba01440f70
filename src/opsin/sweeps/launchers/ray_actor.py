"""What runs on a node of a Ray cluster: a process that forks the jobs of one slot, and knows the one under way."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from opsin.errors import UserError
from opsin.sweeps.launchers.base import Exit, Job
from opsin.sweeps.launchers.local import Local, LocalHandle

TAKEN_ALONG = ("HF_", "HYDRA_", "OMP_", "OPSIN_", "PYTHON", "TORCH_")
"""Beginnings of the names of variables that a job has from the sweep; all others are those of its node."""

CUT_OFF_S = 120.0
"""Seconds that a job waits for an earlier process of the same run, which a node that Ray has lost may still have."""

POLL_S = 0.05
"""Seconds between looks at the job."""


@dataclass(frozen=True)
class JobEnvironment:
    """What a job has of the process of the sweep, as if it were forked from it.

    Attributes:
        folder: working directory.
        paths: where modules are looked for.
        variables: of the environment.
    """

    folder: str
    paths: tuple[str, ...]
    variables: Mapping[str, str]

    @classmethod
    def here(cls) -> "JobEnvironment":
        """Those of this process."""
        variables = {name: value for name, value in os.environ.items() if name.startswith(TAKEN_ALONG)}
        return cls(str(Path.cwd()), tuple(str(Path(path).absolute()) for path in sys.path), variables)

    def adopt(self) -> None:
        """Let them be those of this process."""
        os.chdir(self.folder)
        os.environ.update(self.variables)
        sys.path[:] = dict.fromkeys([*sys.path, *self.paths])


class RayActor:
    """What runs on a node: keeps a server from which the jobs of one slot are forked, and the job under way.

    Args:
        devices: of its jobs.
        threads: of each process of a job.
        memory_gb: that each process may hold, GB; None sets no limit.
        uses_gpus: whether Ray has given it GPUs.
    """

    def __init__(self, devices: int, threads: int, memory_gb: float | None, uses_gpus: bool) -> None:
        if not uses_gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        # Each forked process would import the main module of this one, which is Ray's worker, once more.
        vars(sys.modules["__main__"]).pop("__file__", None)
        self._engine = Local(jobs=devices, threads=threads, memory_gb=memory_gb)
        self._lock = threading.Lock()  # what multiprocessing knows of a process is not for two threads
        self._number: int | None = None
        self._handle: LocalHandle | None = None

    def host(self) -> str:
        """Name of the node."""
        return socket.gethostname()

    def run(self, job: Job, origin: JobEnvironment) -> Exit:
        """Run a job to its end.

        Raises:
            UserError: this node does not see a directory of the sweep, or another process writes to that of the run.
        """
        for place in (Path(origin.folder), job.run.path):
            if not place.is_dir():
                raise UserError(
                    f"launcher=ray: the node {self.host()} has no {place}: the directory that train.py is called in, "
                    "output_dir and data_dir must lie on a disk that all nodes share"
                )
        with job.run.locked(True, timeout=CUT_OFF_S):
            pass
        origin.adopt()
        with self._lock:
            signal.pthread_sigmask(signal.SIG_SETMASK, ())  # Ray's threads block signals, and a job would inherit that
            self._handle, self._number = self._engine.start(job), job.number
        while True:
            with self._lock:
                if end := self._handle.poll():
                    self._handle = None
                    return end
            time.sleep(POLL_S)

    def stop(self, number: int) -> None:
        """Ask the job of this number to save and end."""
        with self._lock:
            if self._handle is not None and self._number == number:
                self._handle.stop()
