"""This machine: each job in a process forked from a server that has imported everything already."""

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.process import BaseProcess
from typing import Annotated, Any, Literal

from pydantic import Field

from opsin.sweeps.launchers import job_process
from opsin.sweeps.launchers.base import Exit, Job

PRELOADED = ["opsin.commands.train", "opsin.commands.train_cli", "torch.utils.tensorboard", "hydra._internal.hydra"]
"""What the server imports once, and every job then has at once."""


class Local:
    """Runs jobs on this machine, the GPUs or the cores divided among them.

    A job is forked from a server that has imported torch and Lightning and done nothing else, so that it begins within
    a few hundredths of a second; on Windows, which cannot fork, each imports for itself.

    Args:
        jobs: how many run at once; `auto`: `jobs_per_gpu` on each GPU, or one on each core.
        threads: of each process; `auto`: the cores, divided by `jobs`.
        jobs_per_gpu: how many share one GPU.
        memory_gb: memory that a job may take before it fails, GB; null: what there is.

    Attributes:
        slots: devices' worth of jobs at once.
        threads: of each process of a job.
    """

    def __init__(
        self,
        jobs: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto",
        threads: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto",
        jobs_per_gpu: Annotated[int, Field(ge=1)] = 1,
        memory_gb: Annotated[float, Field(gt=0)] | None = None,
    ) -> None:
        self._free = [gpu for _ in range(jobs_per_gpu) for gpu in visible_gpus()]
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.slots: int = (len(self._free) or cores) if jobs == "auto" else jobs
        self.threads: int = max(1, cores // self.slots) if threads == "auto" else threads
        self._memory_gb = memory_gb
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        self._context: Any = multiprocessing.get_context(method)
        if method == "forkserver":
            self._context.set_forkserver_preload(PRELOADED)

    def start(self, job: Job) -> "LocalHandle":
        """Start a job in a process of its own, on GPUs that no other job has where there are enough."""
        gpus = [self._free.pop(0) for _ in range(min(job.devices, len(self._free)))]
        environment = {"OMP_NUM_THREADS": str(self.threads)} | (
            {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
        )
        process = self._context.Process(
            target=job_process.run_job, args=(job, environment, self._memory_gb), name=f"job {job.number}"
        )
        with _set(environment), _undisturbed():  # the first job starts the server, which takes both over
            process.start()
        return LocalHandle(process, lambda: self._free.extend(gpus))

    def close(self) -> None:
        """Nothing is left to do: the server ends with this process."""


class LocalHandle:
    """A process of this machine."""

    def __init__(self, process: BaseProcess, give_back: Callable[[], None]) -> None:
        self._process = process
        self._give_back = give_back
        self._exit: Exit | None = None

    def poll(self) -> Exit | None:
        """How it ended; None while it runs."""
        if self._exit is None and (code := self._process.exitcode) is not None:
            self._exit = Exit(code)
            self._give_back()
        return self._exit

    def stop(self) -> None:
        """Ask it to save and end."""
        if self.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """End it, and the processes that it started."""
        if self.poll() is None and self._process.pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()  # where it has not come to a group of its own yet


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold Ctrl-C back from a process that is started: it goes to all of a terminal, and is meant for the sweep."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def visible_gpus() -> list[str]:
    """CUDA devices that this process may use, as `CUDA_VISIBLE_DEVICES` names them; torch is not loaded."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in named.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    return listed.stdout.split() if listed.returncode == 0 else []


@contextlib.contextmanager
def _set(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment for a while."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
