"""Actor on a node of a Ray cluster: it forks the jobs of one slot, one after the other."""

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

PASSED_ON = ("HF_", "HYDRA_", "OMP_", "OPSIN_", "PYTHON", "TORCH_")
"""Prefixes of the environment variables that a job gets from the sweep, besides the secrets of its config; all others
come from its node.
"""

CLAIM_TIMEOUT_S = 120.0
"""Seconds to wait for an earlier process of the same run, which may still live on a node that Ray has lost."""

POLL_S = 0.05
"""Seconds between polls of the job."""


@dataclass(frozen=True)
class JobEnvironment:
    """State of the process of the sweep that a job inherits.

    Attributes:
        folder: Working directory.
        paths: Search path of modules.
        variables: Environment variables.
    """

    folder: str
    paths: tuple[str, ...]
    variables: Mapping[str, str]

    @classmethod
    def here(cls, secrets: tuple[str, ...]) -> "JobEnvironment":
        """Return the environment of this process, with the secrets of these names."""
        passed_on = {name for name in os.environ if name.startswith(PASSED_ON) or name in secrets}
        variables = {name: os.environ[name] for name in passed_on}
        return cls(str(Path.cwd()), tuple(str(Path(path).absolute()) for path in sys.path), variables)

    def adopt(self) -> None:
        """Apply the environment to this process."""
        os.chdir(self.folder)
        os.environ.update(self.variables)
        sys.path[:] = dict.fromkeys([*sys.path, *self.paths])


class RayActor:
    """Forks the jobs of one slot from a server process, and stops them.

    Args:
        devices: Number of devices of each job.
        threads: Threads of each process of a job.
        memory_gb: Memory limit of each process, GB; None sets no limit.
        uses_gpus: Whether Ray has assigned GPUs to the actor.
    """

    def __init__(self, devices: int, threads: int, memory_gb: float | None, uses_gpus: bool) -> None:
        if not uses_gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        # Otherwise each forked process would import the main module of this process, the worker of Ray.
        vars(sys.modules["__main__"]).pop("__file__", None)
        self._engine = Local(jobs=devices, threads=threads, memory_gb=memory_gb)
        self._lock = threading.Lock()  # multiprocessing is not safe for two threads
        self._number: int | None = None
        self._handle: LocalHandle | None = None

    def host(self) -> str:
        """Return the name of the node."""
        return socket.gethostname()

    def run(self, job: Job, environment: JobEnvironment) -> Exit:
        """Run a job to its end.

        Raises:
            UserError: The node does not see a directory of the sweep, or another process writes to the run directory.
        """
        for folder in (Path(environment.folder), job.run.path):
            if not folder.is_dir():
                raise UserError(
                    f"launcher=ray: the node {self.host()} has no {folder}: the working directory, output_dir and "
                    "data_dir must be on a disk that all nodes share"
                )
        with job.run.locked(True, timeout=CLAIM_TIMEOUT_S):
            pass
        environment.adopt()
        with self._lock:
            signal.pthread_sigmask(signal.SIG_SETMASK, ())  # threads of Ray block signals, and a job would inherit that
            self._handle, self._number = self._engine.start(job), job.number
        while True:
            with self._lock:
                if end := self._handle.poll():
                    self._handle = None
                    return end
            time.sleep(POLL_S)

    def stop(self, number: int) -> None:
        """Ask the job of this trial to save and end."""
        with self._lock:
            if self._handle is not None and self._number == number:
                self._handle.stop()
