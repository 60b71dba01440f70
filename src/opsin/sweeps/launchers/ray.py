"""Launcher for a Ray cluster: each slot is an actor on a node, which forks jobs there as the local launcher does."""

import logging
import math
import signal
import sys
import time
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from opsin import __version__
from opsin.errors import UserError
from opsin.sweeps.launchers.base import Exit, Job
from opsin.sweeps.launchers.ray_actor import JobEnvironment, RayActor
from opsin.sweeps.launchers.ray_cluster import connect, format_needs, jobs_that_fit

log = logging.getLogger(__name__)

IDLE_S = 15.0
"""Seconds after which an actor without a job releases its resources."""


class Ray:
    """Runs jobs on the nodes of a Ray cluster that share the disk and the environment of this machine.

    Each slot is an actor. It reserves the resources of a job, and forks one job after the other from a server that has
    imported everything. Ray restarts nothing: if a node or an actor dies, its job is lost, and the sweep starts it
    elsewhere. If the sweep dies, its actors and their jobs end.

    Args:
        address: `auto` is the cluster of `RAY_ADDRESS`, or the one that this machine belongs to; `host:6379`;
            `ray://host:10001` from outside the cluster; null starts a cluster on this machine for the sweep.
        jobs: Number of jobs at the same time; `auto`: as many as fit on the nodes that are up.
        threads: Threads of each process of a job, and the cores (`num_cpus`) reserved for it.
        jobs_per_gpu: Number of jobs that share one GPU.
        gpus: Whether jobs get GPUs; `auto`: if any node has one.
        memory_gb: Memory reserved for each process of a job, GB, which fails if it uses more; null: no limit.
        resources: More resources that a job reserves on its node, such as `{"accelerator_type:A100": 0.001}`.

    Attributes:
        slots: Number of devices that the jobs use at the same time.
        threads: Threads of each process of a job.

    Raises:
        UserError: Ray is not installed, no cluster answers, or a job fits on none of its nodes.
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
        self.slots: int = sum(jobs_that_fit(node, self._needs(1)) for node in nodes) if jobs == "auto" else jobs
        if self.slots == 0:
            self._ray.shutdown()
            raise UserError(
                f"launcher=ray: a job needs {format_needs(self._needs(1))}, which no node of the cluster has: lower "
                "launcher.threads, launcher.memory_gb or launcher.resources, or set launcher.jobs if the cluster adds "
                "nodes on demand"
            )

    def has_room(self, job: Job) -> bool:
        """Return True: Ray queues a job until its devices are free."""
        return True

    def start(self, job: Job) -> "RayHandle":
        """Start a job on an idle actor, or on a new one, which Ray queues until it fits on a node."""
        slot = next((slot for slot in self._idle if slot.devices == job.devices), None)
        if slot is not None:
            self._idle.remove(slot)
            handle = RayHandle(self._ray, self, slot, job)
            handle.poll()  # its actor is up and begins at once
            return handle
        self.release(self._idle)  # this job may need the resources that they reserve
        handle = RayHandle(self._ray, self, self._new_slot(job.devices), job)
        self._queued.append(handle)
        return handle

    def close(self) -> None:
        """End the actors and disconnect; a cluster that was started for the sweep ends."""
        self.release(self._idle)
        self._ray.shutdown()

    def give_back(self, slot: "_Slot") -> None:
        """Give an actor whose job has ended to a queued job, or keep it for a later one."""
        self._queued = [handle for handle in self._queued if handle.is_queued]
        waiting = next((handle for handle in self._queued if handle.slot.devices == slot.devices), None)
        if waiting is None:
            slot.idle_since = time.monotonic()
            self._idle.append(slot)
        else:
            self._ray.kill(waiting.slot.actor)
            waiting.slot = slot

    def release_idle(self) -> None:
        """End actors that have been idle for a while, so that others can use the cluster."""
        self.release([slot for slot in self._idle if time.monotonic() - slot.idle_since > IDLE_S])

    def release(self, slots: "list[_Slot]") -> None:
        """End actors."""
        for slot in list(slots):
            self._ray.kill(slot.actor)
            self._idle.remove(slot)

    def _new_slot(self, devices: int) -> "_Slot":
        needs = self._needs(devices)
        if not self._warned and not any(jobs_that_fit(node, needs) for node in self._nodes()):
            self._warned = True
            log.warning("no node of the Ray cluster has %s: jobs wait for one", format_needs(needs))
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
        """Return the resources that a job needs on its node; several devices need as many whole GPUs."""
        gpus = (self._gpu_share if devices == 1 else devices) if self._gpus else 0
        memory = int((self._memory_gb or 0) * 1e9) * devices
        return {"CPU": self.threads * devices, "GPU": gpus, "memory": memory, **self._resources}

    def _nodes(self) -> list[dict[str, float]]:
        """Return the resources of each node that is up."""
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]


@dataclass
class _Slot:
    """An actor that runs one job at a time.

    Attributes:
        actor: Handle of a `RayActor`.
        devices: Number of devices of its jobs.
        host: Reference to the name of its node, which is available once the actor is up.
        idle_since: Time when its last job ended.
    """

    actor: Any
    devices: int
    host: Any
    idle_since: float = 0.0


class RayHandle:
    """Handle of a job on an actor of a Ray cluster.

    Attributes:
        slot: The actor; it may change while the job is queued.
    """

    def __init__(self, ray: Any, engine: Ray, slot: _Slot, job: Job) -> None:
        self._ray, self._engine, self._job = ray, engine, job
        self.slot = slot
        self._end: Any = None
        self._exit: Exit | None = None
        self._killed = False

    @property
    def suspended(self) -> str:
        """Always empty: Ray does not report it."""
        return ""

    @property
    def is_queued(self) -> bool:
        """Whether the job waits for an actor."""
        return self._end is None and self._exit is None and not self._killed

    def poll(self) -> Exit | None:
        """Return the end of the job; None while it waits or runs.

        Raises:
            UserError: The node cannot run jobs of this sweep, or the cluster does not answer.
        """
        self._engine.release_idle()
        try:
            if self._exit is None and self._is_ready(awaited := self.slot.host if self._end is None else self._end):
                self._exit = self._read(awaited)
                if self._exit is None:  # its actor is up
                    self._end = self.slot.actor.run.remote(self._job, JobEnvironment.here(self._job.secrets))
        except ConnectionError as error:
            raise UserError(
                f"the Ray cluster does not answer ({error}): start it again, then resume with the same command"
            ) from None
        return self._exit

    def stop(self) -> None:
        """Ask the job to save and end; a queued job ends at once."""
        if self.poll() is not None:
            return
        if self.is_queued:
            self._ray.kill(self.slot.actor)
            self._exit = Exit(-signal.SIGTERM, reason="stopped before it fitted on a node")
        else:
            self.slot.actor.stop.remote(self._job.number)

    def kill(self) -> None:
        """End the job, its actor and all processes that it started."""
        if self._exit is None:
            self._killed = True
            self._ray.kill(self.slot.actor)

    def _is_ready(self, reference: Any) -> bool:
        return bool(self._ray.wait([reference], timeout=0)[0])

    def _read(self, reference: Any) -> Exit | None:
        """Return the end of the job; None if its actor has only reported that it is up."""
        errors = self._ray.exceptions
        try:
            returned = self._ray.get(reference)
        except UserError as error:
            raise UserError(str(getattr(error, "cause", error))) from None  # without the traceback from the node
        except errors.RayError as error:
            self._ray.kill(self.slot.actor)  # it may only be unreachable
            if self._killed:
                return Exit(-signal.SIGKILL)
            return self._explain(error)
        if isinstance(returned, Exit):
            self._engine.give_back(self.slot)
            return returned
        return None

    def _explain(self, error: Any) -> Exit:
        """Return the end of the job from an error of Ray."""
        errors = self._ray.exceptions
        if getattr(error, "actor_init_failed", False):
            raise UserError(
                f"launcher=ray: a node cannot run jobs of this sweep ({_first_sentence(error)}): every node needs this "
                f"environment ({sys.prefix}), with Opsin {__version__} installed in it"
            ) from None
        if isinstance(error, errors.OutOfMemoryError):
            way_out = "raise launcher.memory_gb, which reserves memory for each job, or lower launcher.jobs"
            return Exit(-signal.SIGKILL, reason=f"Ray killed it because its node ran low on memory: {way_out}")
        if isinstance(error, errors.RayTaskError):
            return Exit(1, reason=f"it could not be started on its node: {_first_sentence(error)}")
        away = isinstance(error, errors.ActorUnavailableError)
        cause = "its node does not answer" if away else _first_sentence(error)
        return Exit(-signal.SIGKILL, lost=True, reason=f"Ray lost it ({cause})")


def _first_sentence(error: Exception) -> str:
    """Return the first sentence of the last line of an error of Ray, without the details of the actor."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("\t")]
    return lines[-1].strip().split(". ")[0] if lines else type(error).__name__
