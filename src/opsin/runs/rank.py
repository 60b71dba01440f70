"""The rank of this process among those of a run."""

import os

from opsin.errors import UserError


def is_spawned() -> bool:
    """Return whether a run has several processes and this is not the first one; only the first writes."""
    for rank in ("RANK", "LOCAL_RANK"):  # torchrun numbers its processes, also inside tasks of srun
        if os.environ.get(rank):
            return os.environ[rank] != "0"
    return os.environ.get("SLURM_STEP_NUM_TASKS", "1") != "1" and os.environ.get("SLURM_PROCID", "0") != "0"


def stand_alone() -> None:
    """Ignore the rank that srun gives this process, because the processes of a sweep work independently.

    Raises:
        UserError: torchrun started this process; it starts the processes of a single run.
    """
    if os.environ.get("RANK"):
        raise UserError(
            "--multirun cannot run under torchrun, which starts the processes of a single run: leave torchrun out"
        )
    for name in ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):
        os.environ.pop(name, None)
