"""Which of the processes of a run this is."""

import os

from opsin.errors import UserError


def is_spawned() -> bool:
    """Whether this process is a further one of a run on several devices; only the first writes."""
    for rank in ("RANK", "LOCAL_RANK"):  # torchrun numbers its processes, whichever of srun's tasks they are in
        if os.environ.get(rank):
            return os.environ[rank] != "0"
    return os.environ.get("SLURM_STEP_NUM_TASKS", "1") != "1" and os.environ.get("SLURM_PROCID", "0") != "0"


def stand_alone() -> None:
    """Be a process like any other, whoever has started it with others: those of a sweep work side by side.

    Raises:
        UserError: it is torchrun, which starts the processes of one run.
    """
    if os.environ.get("RANK"):
        raise UserError("torchrun starts the processes of one run, and --multirun those of many: leave torchrun out")
    for name in ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):
        os.environ.pop(name, None)
