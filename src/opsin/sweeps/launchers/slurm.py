"""Launcher for a SLURM cluster: each job of a sweep is a SLURM job, submitted through submitit."""

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
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from opsin.config.locations import module_path, train_process
from opsin.errors import UserError
from opsin.runs.hidden_variables import hidden_variables
from opsin.sweeps.launchers.base import Exit, Job
from opsin.sweeps.launchers.slurm_queue import Queue, end_of

log = logging.getLogger(__name__)

RETRY_S = 20.0
"""Seconds until a rejected submission is tried again."""

OWN_OPTIONS = {
    *("job-name", "output", "error", "open-mode", "signal", "requeue", "no-requeue", "dependency"),
    *("nodes", "ntasks", "ntasks-per-node", "cpus-per-task", "array"),
}
"""Options of sbatch that a user cannot set, because Opsin or submitit controls them."""

PREAMBLE = [
    "export SUBMITIT_LOG_LEVEL=CRITICAL",
    f'[ "${{SLURM_RESTART_COUNT:-0}}" = 0 ] || exit {128 + signal.SIGTERM}',
]
"""Lines of bash at the start of a job. The first one silences submitit. The second one ends a job that SLURM has
restarted, because its overrides may begin a new run."""


class Slurm:
    """Runs jobs on a SLURM cluster, from a machine with `sbatch`, `squeue`, `scancel` and `scontrol`.

    A job runs in one SLURM task on one node, as it would on this machine; if it trains on several devices, Lightning
    starts the other processes. Before its time limit a run gets a signal to save and end. SLURM never restarts a job:
    the sweep submits an interrupted job again, and the run resumes.

    A job that an earlier process of the sweep left in the queue is taken over. Its name comes from the run directory,
    and SLURM never runs two jobs of one name at the same time (`--dependency=singleton`).

    Args:
        jobs: Largest number of devices of all waiting and running jobs together.
        threads: CPUs of each process; each device has one process.
        gpus: Whether to request a GPU for each device.
        memory_gb: Memory of a job, GB; null: the default of the cluster.
        minutes: Time limit of a job; null: that of the partition.
        warning_s: Time before the limit at which a run gets the signal to save, s; SLURM may send it up to a minute
            earlier.
        partition: Partition; null: the default of the cluster.
        account: Account to charge; null: the default of the cluster.
        qos: Quality of service; null: the default of the cluster.
        options: More options of sbatch, such as `{constraint: a100}`.
        setup: Lines of bash to run on the node first, such as `module load cuda`.

    Attributes:
        slots: Largest number of devices of all waiting and running jobs together.
        threads: Threads of each process of a job.

    Raises:
        UserError: submitit or the commands of SLURM are not installed, or options contradict each other.
    """

    def __init__(
        self,
        jobs: Annotated[int, Field(ge=1)] = 64,
        threads: Annotated[int, Field(ge=1)] = 4,
        gpus: bool = False,
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
            raise UserError(f"launcher.options.{own[0]} is computed by Opsin and cannot be set")
        _refuse_line_breaks({**(options or {}), "partition": partition, "account": account, "qos": qos})
        if minutes is not None and warning_s >= 60 * minutes:
            raise UserError(
                f"launcher.warning_s={warning_s} is not shorter than launcher.minutes={minutes}: a run would be "
                "stopped as soon as it begins. Raise launcher.minutes."
            )
        self.slots, self.threads = jobs, threads
        self._gpus = gpus
        self._memory = None if memory_gb is None else f"{math.ceil(memory_gb * 1e9 / 2**20)}M"
        self._limits = {"time": minutes, "partition": partition, "account": account, "qos": qos}
        self._options: dict[str, Any] = {
            **(options or {}),
            "signal": f"TERM@{warning_s}",
            "no-requeue": True,
            "dependency": "singleton",
        }
        self._setup = [*PREAMBLE, *(setup or [])]
        self._queue = Queue()
        self._accepted_once = False
        self._rejection = ""

    def has_room(self, job: Job) -> bool:
        """Return True: SLURM queues a job until its devices are free."""
        return True

    def start(self, job: Job) -> "SlurmHandle":
        """Queue a job, or take over the queued job of its run directory.

        Raises:
            UserError: SLURM rejects the first job. Later rejections are tried again: there may be too many jobs.
        """
        handle = SlurmHandle(job, self, self._queue)
        handle.poll()
        return handle

    def close(self) -> None:
        """Do nothing."""

    def submit(self, job: Job) -> str | None:
        """Submit a job; return its number, or None if SLURM rejects it, to be tried again."""
        import submitit

        folder = job.run.path / "slurm"
        folder.mkdir(parents=True, exist_ok=True)
        before = set(folder.iterdir())
        executor = submitit.SlurmExecutor(folder, python=self._python(job))
        executor.update_parameters(**self._parameters(job))
        try:
            with (
                _outside_slurm(),
                contextlib.redirect_stderr(io.StringIO()),
            ):  # submitit also prints the errors that it raises
                number: str = executor.submit(os.execvp, "env", self._command(job)).job_id
        except submitit.core.utils.FailedJobError as error:
            for file in set(folder.iterdir()) - before:
                file.unlink()
            message = " ".join(str(error).split())
            if message and not self._accepted_once:
                raise UserError(f"launcher=slurm: sbatch rejected the job: {message}") from None
            if message != self._rejection:
                log.warning("sbatch rejected a job, trying again: %s", message)
            self._rejection = message
            return None
        self._accepted_once = True
        return number

    def _command(self, job: Job) -> list[str]:
        """Return the command that the task of a job executes.

        With the job name `interactive` Lightning starts its processes as on any machine. Otherwise it waits for as many
        tasks as there are devices, and requeues the job itself.
        """
        variables = ["SLURM_JOB_NAME=interactive", f"OMP_NUM_THREADS={self.threads}", "PYTHONUNBUFFERED=1"]
        return ["env", *variables, f"PYTHONPATH={module_path()}", *train_process(job.overrides)]

    def _python(self, job: Job) -> str:
        """Return the command that starts Python in a task; the srun of submitit would add a terminal."""
        # Since SLURM 22.05, srun does not inherit the number of CPUs from sbatch.
        cpus = f"--cpus-per-task={self.threads * job.devices}"
        return shlex.join(["srun", cpus, f"--output={job.console}", "--open-mode=append", sys.executable])

    def _parameters(self, job: Job) -> dict[str, Any]:
        """Return the parameters for submitit, which renames some options of sbatch."""
        return {
            **self._limits,
            "job_name": name_of(job),
            "nodes": 1,
            "ntasks_per_node": 1,
            "cpus_per_task": self.threads * job.devices,
            "gpus_per_node": job.devices if self._gpus else None,
            "mem": self._memory,
            "wckey": None,
            "stderr_to_stdout": True,
            "setup": self._setup,
            "use_srun": False,
            "additional_parameters": self._options,
        }


class SlurmHandle:
    """Handle of a SLURM job, or of a job that is not submitted yet."""

    def __init__(self, job: Job, slurm: Slurm, queue: Queue) -> None:
        self._job, self._slurm, self._queue = job, slurm, queue
        self._number: str | None = None
        self._console_begun = False
        self._stopped = False
        self._exit: Exit | None = None
        self._next_try = 0.0

    def poll(self) -> Exit | None:
        """Return the end of the job; None while it waits or runs."""
        if self._exit is None and self._number is None and time.monotonic() >= self._next_try:
            self._begin()
        elif self._exit is None and self._number and (state := self._queue.ended(self._number)):
            self._exit = self._end(self._number, state)
        return self._exit

    @property
    def suspended(self) -> str:
        """The command that continues a job that SLURM has suspended; empty if it is not."""
        return f"scontrol resume {self._number}" if self._queue.is_suspended(self._number or "") else ""

    def stop(self) -> None:
        """Ask the job to save and end; a waiting job is removed from the queue."""
        self._stopped = True
        if self._number is None:
            self._exit = self._exit or Exit(128 + signal.SIGTERM)
        elif self._exit is None:
            self._queue.cancel(self._number, "--state=PENDING")
            self._queue.cancel(self._number, "--signal=TERM")

    def kill(self) -> None:
        """End the job at once."""
        self._stopped = True
        if self._number is None:
            self._exit = self._exit or Exit(-signal.SIGKILL)
        elif self._exit is None:
            self._queue.cancel(self._number, "--signal=KILL")  # otherwise SLURM sends SIGTERM first and waits
            self._queue.cancel(self._number)

    def _begin(self) -> None:
        """Take over the queued job of this run, or submit one."""
        self._next_try = time.monotonic() + RETRY_S
        queued = self._queue.named(name_of(self._job))
        if queued is None:  # nothing may be started while it is unknown whether the run has a job
            return
        if not queued:
            if not self._console_begun:
                self._job.begin_console()
            self._console_begun = True
            self._number = self._slurm.submit(self._job)
        elif "COMPLETING" in queued.values():  # its processes are about to end
            self._next_try = time.monotonic() + 1.0
        else:
            self._number = min(queued)
            log.info("trial %d is in the queue of SLURM already: job %s", self._job.number, self._number)

    def _end(self, number: str, state: str) -> Exit | None:
        list(self._job.run.path.iterdir())  # a listing makes the files of the node visible on a network disk
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
        """Return whether the job has printed anything since it was started last."""
        return any(line.strip() for line in self._job.last_output())

    def _log(self) -> str:
        """Return the output of SLURM and of the setup lines on the node."""
        file = self._job.run.path / "slurm" / f"{self._number}_0_log.out"
        if not file.exists():
            return (
                f"SLURM job {self._number} did not begin, and its node has not written {file}: run directories "
                "(output_dir) must be on a disk that all nodes share"
            )
        lines = file.read_text(encoding="utf-8", errors="replace").rstrip().splitlines() or ["no output"]
        return f"SLURM job {self._number} did not begin; last line of its output: {lines[-1]} ({file})"


def name_of(job: Job) -> str:
    """Return the name of a job in SLURM; each run directory has a name of its own."""
    path = str(job.run.path.resolve())
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', Path(path).name)}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"


def _refuse_line_breaks(options: Mapping[str, Any]) -> None:
    """Refuse options of sbatch that would add lines of their own to the script of a job."""
    for name, value in options.items():
        if not f"{name}{value}".isprintable():
            raise UserError(f"launcher: the option {name!r} with the value {value!r} must be one line of plain text")


def _check_installed() -> None:
    if missing := [name for name in ("sbatch", "squeue", "scancel", "scontrol", "srun") if shutil.which(name) is None]:
        raise UserError(
            f"launcher=slurm: {missing[0]} is not installed on this machine; run the command on a login node of the "
            "cluster, or use launcher=local"
        )
    if importlib.util.find_spec("submitit") is None:
        raise UserError("launcher=slurm needs submitit: pip install 'opsin[slurm]'")


def _outside_slurm() -> AbstractContextManager[None]:
    """Remove the SLURM variables of this process in the block; otherwise sbatch inherits the limits of its job."""
    return hidden_variables("SLURMD?_(?!CONF$)") if "SLURM_JOB_ID" in os.environ else contextlib.nullcontext()
