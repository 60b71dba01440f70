"""Detect torchrun or srun, and get the run directory from rank 0."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from torch.distributed import Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from opsin.errors import UserError
from opsin.runs.rank import is_spawned

RUN_VARIABLE = "OPSIN_RUN"
"""Environment variable in which process 0 passes the run to the processes that it starts."""

PATIENCE_S = 300.0
"""Seconds that a process waits for the run directory from process 0."""

OF_LAUNCHERS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables of launchers that Lightning reads."""


@dataclass(frozen=True)
class Launched:
    """The place of this process among those that torchrun or srun started for a run.

    Attributes:
        by: `torchrun` or `srun`.
        rank: From 0.
        world_size: Number of processes on all machines.
    """

    by: str
    rank: int
    world_size: int


def launched(environment: Mapping[str, str] | None = None) -> Launched | None:
    """Return the launcher of this process, read from the environment; None if it was started alone.

    A single task of srun counts as started alone.

    Raises:
        UserError: A variable of the launcher is not a number, or the rank is not below the number of processes.
    """
    variables = os.environ if environment is None else environment
    if "RANK" in variables and "WORLD_SIZE" in variables and "MASTER_ADDR" in variables:
        by = "srun" if "SLURM_STEP_ID" in variables and "TORCHELASTIC_RUN_ID" not in variables else "torchrun"
        return _launched(by, variables, "RANK", "WORLD_SIZE")
    if _number(variables, "SLURM_STEP_NUM_TASKS", "1") > 1:
        return _launched("srun", variables, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
    return None


def _launched(by: str, variables: Mapping[str, str], rank: str, world_size: str) -> Launched:
    found = Launched(by, _number(variables, rank), _number(variables, world_size))
    if found.rank >= found.world_size:
        raise UserError(
            f"The environment variable {rank}={found.rank} must be below {world_size}={found.world_size}. "
            "Correct them, or unset both to start a run of one process"
        )
    return found


def _number(variables: Mapping[str, str], name: str, default: str | None = None) -> int:
    text = variables.get(name, default)
    if text is None or not text.isascii() or not text.isdigit():
        raise UserError(f"The environment variable {name}={text!r} must be a number that is not negative; or unset it")
    return int(text)


def set_torchrun_variables() -> None:
    """Set the variables of torchrun from those of srun and other launchers: other code reads only these.

    If no launcher started this process, they are deleted. A container image or an earlier program may have left some of
    them, such as LOCAL_RANK=0 or MASTER_ADDR, and the run would wait for processes that nobody starts.
    """
    variables = os.environ
    if launched() is None:
        for name in () if is_spawned() else OF_LAUNCHERS:
            variables.pop(name, None)
        return
    if "RANK" in variables:
        if "LOCAL_RANK" not in variables:  # one process on each machine, as in Kubernetes jobs
            variables["LOCAL_RANK"], variables["NODE_RANK"] = "0", variables["RANK"]
        return
    number = int(variables.get("SLURM_JOB_ID", "0")) + int(variables.get("SLURM_STEP_ID", "0"))
    nodes = variables.get("SLURM_STEP_NODELIST") or variables.get("SLURM_NODELIST") or "127.0.0.1"
    variables["RANK"], variables["WORLD_SIZE"] = variables["SLURM_PROCID"], variables["SLURM_STEP_NUM_TASKS"]
    variables["LOCAL_RANK"], variables["NODE_RANK"] = variables["SLURM_LOCALID"], variables["SLURM_NODEID"]
    variables.setdefault("MASTER_ADDR", SLURMEnvironment.resolve_root_node_address(nodes))
    variables.setdefault("MASTER_PORT", str(15000 + number % 10000))


class Environment(LightningEnvironment):
    """The rank of this process, from the variables of torchrun, or 0 for a single process."""

    def teardown(self) -> None:
        """Keep the environment variables; Lightning would delete one of them."""


def rendezvous_store(launched: Launched) -> Store:
    """Return the store that connects the processes; the process group uses the same port later."""
    timeout = timedelta(seconds=PATIENCE_S)
    store: Store = next(rendezvous("env://", launched.rank, launched.world_size, timeout=timeout))[0]
    return store


def receive_message(launched: Launched) -> str:
    """Wait for the message of process 0 and return it.

    Raises:
        UserError: No message arrives.
    """
    try:
        return str(rendezvous_store(launched).get(RUN_VARIABLE).decode())
    except RuntimeError:
        raise UserError(
            f"process {launched.rank} received no run directory from process 0, which has ended or is not at"
            f" {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        ) from None
