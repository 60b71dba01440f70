"""Number of CPU threads of torch: `trainer.threads`."""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from opsin.runs.cpu_cores import available_cores, own_threads

Threads = Literal["auto"] | Annotated[int, Field(ge=1)]


def use_threads(threads: Threads, devices: Any = 1) -> None:
    """Set the number of CPU threads of torch in this process; the number affects how sums are rounded.

    With `auto` it is OMP_NUM_THREADS if it is set, as in the trials of a sweep. Otherwise it is torch's choice, one per
    physical core, within the cores that a container or a scheduler grants, divided among the processes of a run on
    several devices. A resumed run on as many devices and an evaluation take the number that the run recorded
    (`opsin.training.same_numerics`). It never
    depends on the load of the machine, so a seed gives the same result on a busy machine.

    Args:
        threads: the number, or `auto`.
        devices: number of devices on this machine, one process for each; `auto` and a list count as one process.
    """
    count = torch.get_num_threads()
    if threads != "auto":
        count = threads
    elif own_threads() is None:
        processes = devices if isinstance(devices, int) else 1
        count = min(count, max(1, available_cores() // processes))
    if count != torch.get_num_threads():
        torch.set_num_threads(count)
