"""What a process does that was forked, warm, to run one job: what `python train.py WORDS` does in a fresh one."""

import faulthandler
import os
import runpy
import sys
import threading
from collections.abc import Mapping

from opsin.config.locations import TRAIN_SCRIPT
from opsin.sweeps.launchers.base import Job


def run_job(job: Job, environment: Mapping[str, str], memory_gb: float | None) -> None:
    """Run a job in this process, which is its own, and exit with its code.

    Args:
        job: what to run.
        environment: variables to set.
        memory_gb: data that the process may hold, GB; None sets no limit.
    """
    os.setsid()  # Ctrl-C is for the sweep, which tells its jobs
    threading.Thread(target=_end_with_the_sweep, daemon=True).start()
    os.environ.update(environment)
    _write_to(job)
    faulthandler.enable()  # a crash of native code tells where it was called from
    if memory_gb is not None:
        import resource

        size = int(memory_gb * 1e9)
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    sys.argv = [str(TRAIN_SCRIPT), *job.words]
    runpy.run_path(str(TRAIN_SCRIPT), run_name="__main__")


def _end_with_the_sweep() -> None:
    """End this process, and those that it started, when that of the sweep is gone, however it went.

    The run is gone on with by whoever goes on with the sweep; two must never write one directory.
    """
    import multiprocessing
    import signal

    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.killpg(0, signal.SIGKILL)


def _write_to(job: Job) -> None:
    """Let all that this process and its children print go to the job's console, without an end."""
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
