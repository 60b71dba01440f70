"""A SLURM cluster: each job of a sweep is a job of SLURM, submitted through submitit."""

import contextlib
import hashlib
import importlib.util
import io
import logging
import math
import os
import re
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from opsin.config.locations import TRAIN_SCRIPT
from opsin.errors import UserError
from opsin.sweeps.launchers.base import Exit, Job
from opsin.sweeps.launchers.slurm_queue import Queue, end_of

log = logging.getLogger(__name__)

AGAIN_S = 20.0
"""Seconds until a submission is tried again that SLURM did not take."""

OWN_OPTIONS = {
    *("job-name", "output", "error", "open-mode", "signal", "requeue", "no-requeue", "dependency"),
    *("nodes", "ntasks", "ntasks-per-node", "cpus-per-task", "array"),
}
"""Options of sbatch that are worked out."""

PREAMBLE = [
    "export SUBMITIT_LOG_LEVEL=CRITICAL",
    f'[ "${{SLURM_RESTART_COUNT:-0}}" = 0 ] || exit {128 + signal.SIGTERM}',
]
"""Lines of bash; a job that was requeued by force ends, for its words may be those to begin a run, not to go on."""


class Slurm:
    """Runs jobs on a SLURM cluster, from a machine with `sbatch`, `squeue`, `scancel` and `scontrol`.

    The words of a job run in one task of SLURM, on one node, as they would on this machine: where they train on several
    devices, Lightning starts the further processes itself. Before its time is up a run is told to save and end. SLURM
    starts no job again of its own accord: one that was cut off is told to the sweep, which submits it anew to go on.

    A job that an earlier process of the sweep has left in the queue is taken over. Its name is that of the run
    directory, and SLURM runs no two of one name at once (`--dependency=singleton`), whoever submits them.

    Args:
        jobs: devices' worth of jobs that wait or run at once.
        threads: CPUs of each process; there is one for each device.
        gpu: whether to ask for a GPU for each device.
        memory_gb: memory of a job, GB; null: what the cluster gives.
        minutes: time limit of a job; null: that of the partition.
        warning_s: how long before the limit a run is told to save, s; SLURM may do so up to a minute earlier.
        partition: to run in; null: the cluster's own choice, as for the next two.
        account: to charge.
        qos: quality of service.
        options: further ones of sbatch, such as `{constraint: a100}`.
        setup: lines of bash that are run on the node first, such as `module load cuda`.

    Attributes:
        slots: devices' worth of jobs at once.
        threads: of each process of a job.

    Raises:
        UserError: submitit or SLURM's commands are not installed, or options do not go together.
    """

    def __init__(
        self,
        jobs: Annotated[int, Field(ge=1)] = 64,
        threads: Annotated[int, Field(ge=1)] = 4,
        gpu: bool = False,
        memory_gb: Annotated[float, Field(gt=0)] | None = None,
        minutes: Annotated[int, Field(ge=1)] | None = None,
        warning_s: Annotated[int, Field(ge=1)] = 120,
        partition: str | None = None,
        account: str | None = None,
        qos: str | None = None,
        options: dict[str, str | int | bool] | None = None,
        setup: list[str] | None = None,
    ) -> None:
        _check_installed()
        if own := sorted(OWN_OPTIONS & set(options or {})):
            raise UserError(f"launcher.options.{own[0]} is worked out by Opsin and cannot be set")
        if minutes is not None and warning_s >= 60 * minutes:
            raise UserError(
                f"launcher.warning_s={warning_s} leaves nothing of launcher.minutes={minutes}: a run would be told to "
                "end as soon as it begins. Set launcher.minutes higher."
            )
        self.slots, self.threads = jobs, threads
        self._gpu = gpu
        self._memory = None if memory_gb is None else f"{math.ceil(memory_gb * 1e9 / 2**20)}M"
        self._asked = {"time": minutes, "partition": partition, "account": account, "qos": qos}
        self._options: dict[str, Any] = {
            **(options or {}),
            "signal": f"TERM@{warning_s}",
            "no-requeue": True,
            "dependency": "singleton",
        }
        self._setup = [*PREAMBLE, *(setup or [])]
        self._queue = Queue()
        self._taken_once = False
        self._refusal = ""

    def start(self, job: Job) -> "SlurmHandle":
        """Queue a job, or take over the one that is there for its run directory already.

        Raises:
            UserError: SLURM refuses the first job; what it refuses later, for there may be too many, is tried again.
        """
        handle = SlurmHandle(job, self, self._queue)
        handle.poll()
        return handle

    def close(self) -> None:
        """Nothing is left to do."""

    def submit(self, job: Job) -> str | None:
        """Submit a job; its number, or None where SLURM does not take it for now."""
        import submitit

        folder = job.run.path / "slurm"
        folder.mkdir(parents=True, exist_ok=True)
        before = set(folder.iterdir())
        executor = submitit.SlurmExecutor(folder, python=self._python(job))
        executor.update_parameters(**self._parameters(job))
        try:
            with _as_no_job(), contextlib.redirect_stderr(io.StringIO()):  # submitit prints what it raises
                number: str = executor.submit(os.execvp, "env", self._command(job)).job_id
        except submitit.core.utils.FailedJobError as error:
            for file in set(folder.iterdir()) - before:
                file.unlink()
            said = " ".join(str(error).split())
            if said and not self._taken_once:
                raise UserError(f"launcher=slurm: SLURM does not take a job: {said}") from None
            if said != self._refusal:
                log.warning("SLURM does not take a job, which is tried again: %s", said)
            self._refusal = said
            return None
        self._taken_once = True
        return number

    def _command(self, job: Job) -> list[str]:
        """What the one task of a job turns into.

        The name of the job that Lightning reads there is its word for "start processes as on any machine"; it else
        waits for as many tasks as there are devices, and requeues the job itself.
        """
        variables = ["SLURM_JOB_NAME=interactive", f"OMP_NUM_THREADS={self.threads}", "PYTHONUNBUFFERED=1"]
        return ["env", *variables, sys.executable, str(TRAIN_SCRIPT), *job.words]

    def _python(self, job: Job) -> str:
        """What starts Python in a task; submitit's own srun gives it a terminal, which runs then draw bars on."""
        # From SLURM 22.05 on, srun does not take over how many CPUs sbatch was asked for.
        cpus = f"--cpus-per-task={self.threads * job.devices}"
        return shlex.join(["srun", cpus, f"--output={job.console}", "--open-mode=append", sys.executable])

    def _parameters(self, job: Job) -> dict[str, Any]:
        """Those of submitit, which has names of its own for some options of sbatch."""
        return {
            **self._asked,
            "job_name": name_of(job),
            "nodes": 1,
            "ntasks_per_node": 1,
            "cpus_per_task": self.threads * job.devices,
            "gpus_per_node": job.devices if self._gpu else None,
            "mem": self._memory,
            "wckey": None,
            "stderr_to_stdout": True,
            "setup": self._setup,
            "use_srun": False,
            "additional_parameters": self._options,
        }


class SlurmHandle:
    """A job of SLURM, or one that is to become one."""

    def __init__(self, job: Job, slurm: Slurm, queue: Queue) -> None:
        self._job, self._slurm, self._queue = job, slurm, queue
        self._number: str | None = None
        self._told = False
        self._stopped = False
        self._exit: Exit | None = None
        self._next_try = 0.0

    def poll(self) -> Exit | None:
        """How it ended; None while it waits or runs."""
        if self._exit is None and self._number is None and time.monotonic() >= self._next_try:
            self._begin()
        elif self._exit is None and self._number and (state := self._queue.ended(self._number)):
            self._exit = self._end(self._number, state)
        return self._exit

    def stop(self) -> None:
        """Ask it to save and end; where it waits still, take it out of the queue."""
        self._stopped = True
        if self._number is None:
            self._exit = self._exit or Exit(128 + signal.SIGTERM)
        elif self._exit is None:
            self._queue.cancel(self._number, "--state=PENDING")
            self._queue.cancel(self._number, "--signal=TERM")

    def kill(self) -> None:
        """End it at once."""
        self._stopped = True
        if self._number is None:
            self._exit = self._exit or Exit(-signal.SIGKILL)
        elif self._exit is None:
            self._queue.cancel(self._number, "--signal=KILL")  # without it, SLURM asks first and then waits
            self._queue.cancel(self._number)

    def _begin(self) -> None:
        """Take over the job that is there for this run, else submit one."""
        self._next_try = time.monotonic() + AGAIN_S
        there = self._queue.named(name_of(self._job))
        if there is None:  # as long as it is not known what runs, nothing may be started
            return
        if not there:
            if not self._told:
                self._job.begin_console()
            self._told = True
            self._number = self._slurm.submit(self._job)
        elif "COMPLETING" in there.values():  # its processes are about to end
            self._next_try = time.monotonic() + 1.0
        else:
            self._number = min(there)
            log.info("trial %d is in SLURM's queue already: job %s", self._job.number, self._number)

    def _end(self, number: str, state: str) -> Exit | None:
        list(self._job.run.path.iterdir())  # lets a network's disk look anew for what the node has written there
        if state == "CANCELLED" and self._stopped:
            return Exit(128 + signal.SIGTERM)
        code = self._queue.exit_code(number) if state == "FAILED" else 0
        if code is None:
            return None
        end = end_of(number, state, code)
        if state == "FAILED" and not end.lost and not self._has_printed():
            return Exit(end.code, reason=self._log())
        return end

    def _has_printed(self) -> bool:
        """Whether the job has come as far as to print anything, since it was started last."""
        console = self._job.console
        lines = console.read_text(encoding="utf-8", errors="replace").rstrip().splitlines() if console.exists() else []
        return bool(lines) and not lines[-1].startswith("$ python train.py")

    def _log(self) -> str:
        """What SLURM and the lines of the setup have said on the node."""
        file = self._job.run.path / "slurm" / f"{self._number}_0_log.out"
        if not file.exists():
            return (
                f"SLURM job {self._number} did not begin, and its node has not written {file}: run directories "
                "(output_dir) must lie on a disk that all nodes share"
            )
        said = file.read_text(encoding="utf-8", errors="replace").rstrip().splitlines() or ["nothing"]
        return f"SLURM job {self._number} did not begin; its node says: {said[-1]} ({file})"


def name_of(job: Job) -> str:
    """The name of a job in SLURM: always the same for one run directory, and never for two."""
    path = str(job.run.path.resolve())
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', Path(path).name)}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"


def _check_installed() -> None:
    if missing := [name for name in ("sbatch", "squeue", "scancel", "scontrol", "srun") if shutil.which(name) is None]:
        raise UserError(
            f"launcher=slurm: there is no {missing[0]} on this machine; give the command where SLURM's commands are "
            "(a login node of the cluster), or take launcher=local"
        )
    if importlib.util.find_spec("submitit") is None:
        raise UserError("launcher=slurm needs submitit: pip install 'opsin[slurm]'")


@contextlib.contextmanager
def _as_no_job() -> Iterator[None]:
    """Hide for a while that this process is a job of SLURM itself, where it is: sbatch would hand its limits down."""
    inherited: Mapping[str, str] = {}
    if "SLURM_JOB_ID" in os.environ:
        inherited = {name: value for name, value in os.environ.items() if re.match("SLURMD?_(?!CONF$)", name)}
    for name in inherited:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(inherited)
