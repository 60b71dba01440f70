"""Number of CPU threads of torch: `trainer.threads`."""

from typing import Annotated, Literal

import torch
from pydantic import Field

from opsin.runs.cpu_cores import available_cores, own_threads

Threads = Literal["auto"] | Annotated[int, Field(ge=1)]


def use_threads(threads: Threads, processes: int = 1) -> None:
    """Set the number of CPU threads of torch in this process; the number affects how sums are rounded.

    With `auto` it is OMP_NUM_THREADS if it is set, as in the trials of a sweep. Otherwise it is the smaller of two
    numbers: torch's choice, one thread per physical core; and the cores that a container or a scheduler grants, divided
    by the number of processes.

    A resumed run on the same number of devices keeps the recorded number. An evaluation on a CPU keeps it if the run
    had one device and the machine has enough cores (`opsin.training.same_numerics`). The number does not depend on the
    load of the machine, so a seed gives the same result on a busy machine.

    Args:
        threads: The number, or `auto`.
        processes: Number of processes of the run on this machine, one for each device.
    """
    count = torch.get_num_threads()
    if threads != "auto":
        count = threads
    elif own_threads() is None:
        count = min(count, max(1, available_cores() // processes))
    if count != torch.get_num_threads():
        torch.set_num_threads(count)
