"""Who has started the processes of a run, and how they hear which run it is."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from torch.distributed import Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from opsin.errors import UserError

TOLD = "OPSIN_RUN"
"""Variable in which a process finds what process 0, which started it, has to say."""

PATIENCE_S = 300.0
"""Seconds that a process waits for process 0 to say where the run is."""


@dataclass(frozen=True)
class Launched:
    """This process as one of those that torchrun or srun has started for a run.

    Attributes:
        by: `torchrun` or `srun`.
        rank: from 0.
        world_size: number of processes on all machines.
    """

    by: str
    rank: int
    world_size: int


def launched(environment: Mapping[str, str] | None = None) -> Launched | None:
    """Who started this process with others beside it, as the environment says; None: nobody did.

    A single task of srun is a process like any other.
    """
    told = os.environ if environment is None else environment
    if "RANK" in told and "WORLD_SIZE" in told and "MASTER_ADDR" in told:
        by = "srun" if "SLURM_STEP_ID" in told and "TORCHELASTIC_RUN_ID" not in told else "torchrun"
        return Launched(by, int(told["RANK"]), int(told["WORLD_SIZE"]))
    tasks = int(told.get("SLURM_STEP_NUM_TASKS", "1"))
    return Launched("srun", int(told["SLURM_PROCID"]), tasks) if tasks > 1 else None


def speak_as_torchrun() -> None:
    """Put what srun and others say into the variables that torchrun would set: all else knows only these."""
    told = os.environ
    if launched() is None:
        return
    if "RANK" in told:
        if "LOCAL_RANK" not in told:  # one process on each machine, as Kubernetes jobs have it
            told["LOCAL_RANK"], told["NODE_RANK"] = "0", told["RANK"]
        return
    number = int(told.get("SLURM_JOB_ID", "0")) + int(told.get("SLURM_STEP_ID", "0"))
    nodes = told.get("SLURM_STEP_NODELIST") or told.get("SLURM_NODELIST") or "127.0.0.1"
    told["RANK"], told["WORLD_SIZE"] = told["SLURM_PROCID"], told["SLURM_STEP_NUM_TASKS"]
    told["LOCAL_RANK"], told["NODE_RANK"] = told["SLURM_LOCALID"], told["SLURM_NODEID"]
    told.setdefault("MASTER_ADDR", SLURMEnvironment.resolve_root_node_address(nodes))
    told.setdefault("MASTER_PORT", str(15000 + number % 10000))


class Environment(LightningEnvironment):
    """Which process this is, from the variables that torchrun sets, or from being the only one yet."""

    def teardown(self) -> None:
        """Leave the variables as they are; Lightning's own takes one away."""


def meeting_place(launched: Launched) -> Store:
    """Where the processes meet; it serves the process group later, from the same port."""
    patience = timedelta(seconds=PATIENCE_S)
    store: Store = next(rendezvous("env://", launched.rank, launched.world_size, timeout=patience))[0]
    return store


def asked(launched: Launched) -> str:
    """What process 0 tells; waits for it.

    Raises:
        UserError: it says nothing.
    """
    try:
        return str(meeting_place(launched).get(TOLD).decode())
    except RuntimeError:
        raise UserError(
            f"process {launched.rank} has heard nothing from process 0, which knows where the run is: "
            f"it has ended, or is not at {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        ) from None
