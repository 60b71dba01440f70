"""Entry point of a forked process that runs one job, as `opsin train OVERRIDES` does in a fresh process."""

import faulthandler
import os
import runpy
import sys
import threading
from collections.abc import Mapping

from opsin.sweeps.launchers.base import Job


def run_job(job: Job, environment: Mapping[str, str], memory_gb: float | None) -> None:
    """Run a job in this process, which runs nothing else, and exit with its code.

    Args:
        job: The job to run.
        environment: Environment variables to set.
        memory_gb: Limit of the data segment, GB; None sets no limit.
    """
    os.setsid()  # Ctrl-C goes to the sweep, which stops its jobs
    threading.Thread(target=_end_with_the_sweep, daemon=True).start()
    os.environ.update(environment)
    _write_to(job)
    faulthandler.enable()  # a crash in native code prints the Python traceback
    if memory_gb is not None:
        import resource

        size = int(memory_gb * 1e9)
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    sys.argv = ["opsin", "train", *job.overrides]
    runpy.run_module("opsin", run_name="__main__", alter_sys=True)


def _end_with_the_sweep() -> None:
    """End this process and its children when the process of the sweep has ended for any reason.

    The run is resumed together with the sweep, and two processes must never write to one directory.
    """
    import multiprocessing
    import signal

    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.killpg(0, signal.SIGKILL)


def _write_to(job: Job) -> None:
    """Append the output of this process and its children to the console file of the job."""
    sys.stdout.flush()
    sys.stderr.flush()
    job.begin_console()
    file = os.open(job.console, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
