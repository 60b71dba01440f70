"""Launcher for this machine: jobs are forked from a server process that has imported everything."""

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from opsin.runs.cpu_cores import THREADS_VARIABLE, available_cores, own_threads
from opsin.sweeps.launchers import job_process
from opsin.sweeps.launchers.base import Exit, Job

PRELOADED = [
    "opsin.sweeps.launchers.job_server",
    "opsin.commands.train",
    "opsin.commands.train_cli",
    "torch.utils.tensorboard",
    "hydra._internal.hydra",
]
"""Modules that the server imports once for all jobs."""


class Local:
    """Runs jobs on this machine and divides its GPUs or cores among them.

    A job is forked from a server that has only imported torch and Lightning, so it begins within a few hundredths of
    a second.

    Args:
        jobs: Number of jobs at the same time; `auto`: `jobs_per_gpu` on each GPU, or as many as the cores take.
        threads: Threads of each process; `auto`: OMP_NUM_THREADS if it is set, else the cores divided by `jobs`.
        jobs_per_gpu: Number of jobs that share one GPU.
        memory_gb: Memory that a job may use before it fails, GB; null: no limit.

    Attributes:
        slots: Number of devices that the jobs use at the same time.
        threads: Threads of each process of a job.
    """

    def __init__(
        self,
        jobs: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto",
        threads: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto",
        jobs_per_gpu: Annotated[int, Field(ge=1)] = 1,
        memory_gb: Annotated[float, Field(gt=0)] | None = None,
    ) -> None:
        self._jobs_of = Counter(dict.fromkeys(visible_gpus(), 0))
        places = jobs_per_gpu * len(self._jobs_of)
        own = own_threads() if threads == "auto" else threads
        cores = available_cores()
        self.slots: int = (places or max(1, cores // (own or 1))) if jobs == "auto" else jobs
        self._most_jobs = jobs_per_gpu if self.slots <= places else self.slots  # more jobs than places share them
        self.threads: int = own or max(1, cores // self.slots)
        self._memory_gb = memory_gb
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)

    def has_room(self, job: Job) -> bool:
        """Return whether enough GPUs take one more job."""
        free = sum(jobs < self._most_jobs for jobs in self._jobs_of.values())
        return free >= min(job.devices, len(self._jobs_of))

    def start(self, job: Job) -> "LocalHandle":
        """Start a job in a process of its own, on the GPUs with the fewest jobs."""
        gpus = sorted(self._jobs_of, key=self._jobs_of.__getitem__)[: job.devices]
        self._jobs_of.update(gpus)
        environment = {THREADS_VARIABLE: str(self.threads)} | ({"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {})
        process = self.fork(job_process.run_job, job, environment, self._memory_gb)
        return LocalHandle(process, lambda: self._jobs_of.subtract(gpus))

    def fork(self, function: Callable[..., None], *arguments: object) -> BaseProcess:
        """Run a function in a process that has imported torch and Lightning, a fork of the server."""
        process = self._context.Process(target=function, args=arguments)
        environment = {THREADS_VARIABLE: str(self.threads)}  # for the server, which the first process starts
        with _environment_set(environment), _sigint_blocked():
            process.start()
        return process

    def close(self) -> None:
        """Do nothing: the server ends with this process."""


class LocalHandle:
    """Handle of a job on this machine."""

    def __init__(self, process: BaseProcess, give_back: Callable[[], None]) -> None:
        self._process = process
        self._give_back = give_back
        self._exit: Exit | None = None

    def poll(self) -> Exit | None:
        """Return the end of the job; None while it runs."""
        if self._exit is None and (code := self._process.exitcode) is not None:
            self._exit = Exit(code)
            self._give_back()
        return self._exit

    @property
    def suspended(self) -> str:
        """The command that continues a job that a signal such as SIGSTOP has stopped; empty if it runs."""
        try:
            state = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return f"kill -CONT -{self._process.pid}" if state.rpartition(")")[2].split()[0] == "T" else ""

    def stop(self) -> None:
        """Ask the job to save and end; a suspended job is continued for that."""
        if self.poll() is None:
            self._process.terminate()
            if self._process.pid:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End the job and the processes that it started."""
        if self.poll() is None and self._process.pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()  # if it has no process group of its own yet


@contextlib.contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Block SIGINT while a process is started: only the sweep handles Ctrl-C."""
    resource_tracker.ensure_running()  # a process that starts it unblocks SIGINT
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def visible_gpus() -> list[str]:
    """Return the CUDA devices that this process may use, as in `CUDA_VISIBLE_DEVICES`, without loading torch."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in visible.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    return listed.stdout.split() if listed.returncode == 0 else []


@contextlib.contextmanager
def _environment_set(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables inside this context."""
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
