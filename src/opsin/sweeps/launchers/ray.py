"""A Ray cluster: each slot is an actor on one of its nodes, which forks jobs there as the local engine does here."""

import logging
import math
import signal
import time
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from opsin.config.locations import ROOT
from opsin.errors import UserError
from opsin.sweeps.launchers.base import Exit, Job
from opsin.sweeps.launchers.ray_actor import JobEnvironment, RayActor
from opsin.sweeps.launchers.ray_cluster import connect, in_words, room

log = logging.getLogger(__name__)

IDLE_S = 15.0
"""Seconds after which an actor without a job gives back what it has reserved."""


class Ray:
    """Runs jobs on the nodes of a Ray cluster, which see the same disk and have the same environment as this machine.

    Each slot is an actor, which reserves what a job needs and forks one job after the other from a server that has
    imported everything. Ray itself starts nothing again: a job whose node or actor died is lost, and the sweep starts
    it elsewhere. Where the sweep dies, its actors end, and their jobs with them.

    Args:
        address: `auto` is the cluster that `RAY_ADDRESS` names, else the one that this machine belongs to;
            `host:6379`; `ray://host:10001` from a machine outside; null starts one on this machine, for the sweep.
        jobs: how many run at once; `auto`: as many as the nodes that are up have room for.
        threads: of each process of a job, and the cores (`num_cpus`) reserved for it.
        jobs_per_gpu: how many share one GPU.
        gpus: whether jobs are given GPUs; `auto`: where a node has any.
        memory_gb: memory reserved for each process of a job, GB, which fails if it takes more; null: what there is.
        resources: further resources that a job takes of its node, such as `{"accelerator_type:A100": 0.001}`.

    Attributes:
        slots: devices' worth of jobs at once.
        threads: of each process of a job.

    Raises:
        UserError: Ray is not installed, no cluster answers, or none of its nodes has room for a job.
    """

    def __init__(
        self,
        address: str | None = "auto",
        jobs: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto",
        threads: Annotated[int, Field(ge=1)] = 1,
        jobs_per_gpu: Annotated[int, Field(ge=1)] = 1,
        gpus: Literal["auto"] | bool = "auto",
        memory_gb: Annotated[float, Field(gt=0)] | None = None,
        resources: dict[str, Annotated[float, Field(gt=0)]] | None = None,
    ) -> None:
        self.threads: int = threads
        self._memory_gb = memory_gb
        self._resources = resources or {}
        self._idle: list[_Slot] = []
        self._queued: list[RayHandle] = []
        self._warned = False
        self._ray = connect(address)
        nodes = self._nodes()
        self._gpus = any(node.get("GPU") for node in nodes) if gpus == "auto" else gpus
        self._gpu_share = math.floor(1e4 / jobs_per_gpu) / 1e4  # Ray counts in steps of 1e-4
        self.slots: int = sum(room(node, self._needs(1)) for node in nodes) if jobs == "auto" else jobs
        if self.slots == 0:
            self._ray.shutdown()
            raise UserError(
                f"launcher=ray: no node of the cluster has room for a job, which takes {in_words(self._needs(1))}: "
                "ask for less (launcher.threads, launcher.memory_gb, launcher.resources), or set launcher.jobs where "
                "nodes are added when they are asked for"
            )

    def start(self, job: Job) -> "RayHandle":
        """Start a job on an actor that has none, or on a new one, which Ray queues until a node has room for it."""
        slot = next((slot for slot in self._idle if slot.devices == job.devices), None)
        if slot is not None:
            self._idle.remove(slot)
            handle = RayHandle(self._ray, self, slot, job)
            handle.poll()  # its actor is up, and begins
            return handle
        self.release(self._idle)  # what they have reserved may be what this job needs
        handle = RayHandle(self._ray, self, self._new_slot(job.devices), job)
        self._queued.append(handle)
        return handle

    def close(self) -> None:
        """End the actors and leave the cluster; one that was started for the sweep ends."""
        self.release(self._idle)
        self._ray.shutdown()

    def give_back(self, slot: "_Slot") -> None:
        """Take an actor whose job has ended, for one that is queued, or for a later one."""
        self._queued = [handle for handle in self._queued if handle.is_queued]
        waiting = next((handle for handle in self._queued if handle.slot.devices == slot.devices), None)
        if waiting is None:
            slot.idle_since = time.monotonic()
            self._idle.append(slot)
        else:
            self._ray.kill(waiting.slot.actor)
            waiting.slot = slot

    def release_idle(self) -> None:
        """End the actors that have had no job for a while: others may want their share of the cluster."""
        self.release([slot for slot in self._idle if time.monotonic() - slot.idle_since > IDLE_S])

    def release(self, slots: "list[_Slot]") -> None:
        """End actors."""
        for slot in list(slots):
            self._ray.kill(slot.actor)
            self._idle.remove(slot)

    def _new_slot(self, devices: int) -> "_Slot":
        needs = self._needs(devices)
        if not self._warned and not any(room(node, needs) for node in self._nodes()):
            self._warned = True
            log.warning("no node of the Ray cluster has %s: jobs wait until one comes", in_words(needs))
        actor = (
            self._ray.remote(RayActor)
            .options(
                num_cpus=needs["CPU"],
                num_gpus=needs["GPU"],
                memory=needs["memory"] or None,
                resources=self._resources,
                max_restarts=0,
                max_task_retries=0,
                max_concurrency=2,  # one call runs the job while another stops it
            )
            .remote(devices, self.threads, self._memory_gb, uses_gpus=needs["GPU"] > 0)
        )
        return _Slot(actor, devices, actor.host.remote())

    def _needs(self, devices: int) -> dict[str, float]:
        """What a job takes of its node; several devices are as many whole GPUs."""
        gpus = (self._gpu_share if devices == 1 else devices) if self._gpus else 0
        memory = int((self._memory_gb or 0) * 1e9) * devices
        return {"CPU": self.threads * devices, "GPU": gpus, "memory": memory, **self._resources}

    def _nodes(self) -> list[dict[str, float]]:
        """The resources of each node that is up."""
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]


@dataclass
class _Slot:
    """An actor that runs one job at a time.

    Attributes:
        actor: Ray's handle of a `RayActor`.
        devices: of the jobs that it can run.
        host: refers to the name of its node, which is there once it is up.
        idle_since: when its last job ended.
    """

    actor: Any
    devices: int
    host: Any
    idle_since: float = 0.0


class RayHandle:
    """A job on an actor of a Ray cluster.

    Attributes:
        slot: the actor, which may be another one as long as the job is queued.
    """

    def __init__(self, ray: Any, engine: Ray, slot: _Slot, job: Job) -> None:
        self._ray, self._engine, self._job = ray, engine, job
        self.slot = slot
        self._end: Any = None
        self._exit: Exit | None = None
        self._killed = False

    @property
    def is_queued(self) -> bool:
        """Whether it waits for an actor."""
        return self._end is None and self._exit is None and not self._killed

    def poll(self) -> Exit | None:
        """How it ended; None while it waits or runs.

        Raises:
            UserError: its node cannot run jobs of this sweep, or the cluster is gone.
        """
        self._engine.release_idle()
        try:
            if self._exit is None and self._is_there(awaited := self.slot.host if self._end is None else self._end):
                self._exit = self._read(awaited)
                if self._exit is None:  # its actor is up
                    self._end = self.slot.actor.run.remote(self._job, JobEnvironment.here())
        except ConnectionError as error:
            raise UserError(f"the Ray cluster is gone ({error}): start it; the same command then goes on") from None
        return self._exit

    def stop(self) -> None:
        """Ask it to save and end; one that is still queued ends at once."""
        if self.poll() is not None:
            return
        if self.is_queued:
            self._ray.kill(self.slot.actor)
            self._exit = Exit(-signal.SIGTERM, reason="stopped before a node had room for it")
        else:
            self.slot.actor.stop.remote(self._job.number)

    def kill(self) -> None:
        """End it, and its actor, with all processes that it started."""
        if self._exit is None:
            self._killed = True
            self._ray.kill(self.slot.actor)

    def _is_there(self, reference: Any) -> bool:
        return bool(self._ray.wait([reference], timeout=0)[0])

    def _read(self, reference: Any) -> Exit | None:
        """How the job ended; None: its actor has only told that it is up."""
        errors = self._ray.exceptions
        try:
            returned = self._ray.get(reference)
        except UserError as error:
            raise UserError(str(getattr(error, "cause", error))) from None  # without the traceback of the node
        except errors.RayError as error:
            self._ray.kill(self.slot.actor)  # it may only be out of reach
            if self._killed:
                return Exit(-signal.SIGKILL)
            return self._explain(error)
        if isinstance(returned, Exit):
            self._engine.give_back(self.slot)
            return returned
        return None

    def _explain(self, error: Any) -> Exit:
        """What an error of Ray's is for the job."""
        errors = self._ray.exceptions
        if getattr(error, "actor_init_failed", False):
            raise UserError(
                f"launcher=ray: a node cannot run jobs of this sweep ({_said(error)}): every node needs this "
                f"environment, with Opsin from {ROOT} installed in it"
            ) from None
        if isinstance(error, errors.OutOfMemoryError):
            way_out = "launcher.memory_gb reserves some for each job, launcher.jobs is how many run at once"
            return Exit(-signal.SIGKILL, reason=f"Ray ended it, because its node ran low on memory: {way_out}")
        if isinstance(error, errors.RayTaskError):
            return Exit(1, reason=f"it could not be started on its node: {_said(error)}")
        away = isinstance(error, errors.ActorUnavailableError)
        said = "its node does not answer" if away else _said(error)
        return Exit(-signal.SIGKILL, lost=True, reason=f"Ray lost it ({said})")


def _said(error: Exception) -> str:
    """What Ray says of the death of an actor: the first sentence behind its name, its process and the like."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("\t")]
    return lines[-1].strip().split(". ")[0] if lines else type(error).__name__
