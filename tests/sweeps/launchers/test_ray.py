"""Jobs of a sweep on a Ray cluster: two nodes, each with processes of its own, on this machine."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from engines.ray_nodes import ACCESS, RayNodes, processes_with
from opsin.config import CONFIGS
from opsin.config.validation import check
from opsin.errors import UserError
from opsin.runs.directory import RunDirectory
from opsin.sweeps.checked_sweep import SCHEMA
from opsin.sweeps.launchers.base import Exit, Handle, Job
from opsin.sweeps.launchers.ray import Ray, format_needs, jobs_that_fit

TESTS = Path(__file__).resolve().parents[2]
SMALL = (
    "model=mlp",
    "trainer=cpu",
    "trainer.max_epochs=2",
    "datamodule.train_fraction=0.2",
    "callbacks.early_stopping=null",
    "callbacks.progress.bar=false",
    "logger=none",
    "report=false",
)
ENDLESS = "trainer.max_epochs=100000"

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install ray")


@pytest.fixture(scope="module", autouse=True)
def _access() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ACCESS.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    cluster = RayNodes()
    yield cluster
    cluster.close()


@pytest.fixture
def engine(nodes: RayNodes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ray]:
    monkeypatch.setenv("OPSIN_TARGETS", "interruptions")
    monkeypatch.syspath_prepend(TESTS)
    monkeypatch.syspath_prepend(TESTS / "helpers")
    engine = Ray(nodes.address)
    yield engine
    engine.close()


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Job]:
    def make(number: int, *words: str) -> Job:
        run = RunDirectory(tmp_path / f"{number:03d}")
        if run.config.exists():
            return Job(number, (f"resume={run.path}", *words), run)
        run.path.mkdir(exist_ok=True)
        places = (f"data_dir={tmp_path / 'data'}", f"output_dir={tmp_path}", f"hydra.run.dir={run.path}")
        return Job(number, (*SMALL, *places, *words), run)

    return make


def end_of(handle: Handle) -> Exit:
    wait_until(lambda: handle.poll() is not None)
    end = handle.poll()
    assert end is not None
    return end


def wait_until(happened: Callable[[], Any], *handles: Handle, seconds: float = 180) -> None:
    """Wait like a sweep, which polls its jobs continuously."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        assert [handle.poll() for handle in handles] == [None] * len(handles)
        time.sleep(0.05)


def node_of(handle: Any) -> Any:
    from ray._private.state import actors

    return actors(handle.slot.actor._actor_id.hex())["Address"]["NodeID"]


def test_every_key_of_the_file_is_a_parameter() -> None:
    tree = {"launcher": yaml.safe_load((CONFIGS / "launcher" / "ray.yaml").read_text())}
    fields = check(tree, {"launcher": SCHEMA["launcher"]})
    assert fields["launcher"].call is Ray
    with pytest.raises(UserError, match=r"launcher\.adress is not known: did you mean launcher\.address"):
        check({"launcher": tree["launcher"] | {"adress": 1}}, {"launcher": SCHEMA["launcher"]})


def test_the_scarcest_resource_limits_the_number_of_jobs() -> None:
    node = {"CPU": 8.0, "GPU": 1.0, "memory": 16e9}
    assert jobs_that_fit(node, {"CPU": 1, "GPU": 0, "memory": 0}) == 8
    assert jobs_that_fit(node, {"CPU": 1, "GPU": 0.3333, "memory": 0}) == 3
    assert jobs_that_fit(node, {"CPU": 2, "GPU": 0, "memory": int(6e9)}) == 2
    assert jobs_that_fit(node, {"CPU": 1, "GPU": 0, "memory": 0, "special": 1}) == 0
    needs = {"CPU": 2, "GPU": 0.5, "memory": int(6e9), "special": 1}
    assert format_needs(needs) == "2 CPU, 0.5 GPU, 1 special, 6 GB of memory"


def test_without_ray_the_message_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="pip install"):
        Ray()


@needs_ray
@pytest.mark.parametrize(
    ("address", "message"),
    [("127.0.0.1:1", "no Ray cluster at .*ray start --head"), ("somewhere", "must be auto, HOST:PORT")],
)
def test_an_unreachable_cluster_is_refused_within_seconds(address: str, message: str) -> None:
    begun = time.monotonic()
    with pytest.raises(UserError, match=message):
        Ray(address)
    assert time.monotonic() - begun < 30


@needs_ray
@pytest.mark.slow
def test_jobs_finish_on_both_nodes(engine: Ray, make: Callable[..., Job]) -> None:
    assert engine.slots == 2
    before = signal.getsignal(signal.SIGTERM)
    waiting = [make(number) for number in range(4)]
    running: list[tuple[Job, Handle]] = []
    where = set()
    while waiting or running:
        while waiting and len(running) < engine.slots:
            job = waiting.pop(0)
            running.append((job, engine.start(job)))
        for job, handle in list(running):
            if (end := handle.poll()) is not None:
                running.remove((job, handle))
                assert end == Exit(0), job.console.read_text()
                assert job.run.read_result().status == "finished"
                assert job.console.read_text().startswith("job started: opsin train model=mlp")
                where.add(node_of(handle))
        time.sleep(0.05)
    assert len(where) == 2
    assert signal.getsignal(signal.SIGTERM) == before  # Ray takes it over where it can


@needs_ray
@pytest.mark.slow
def test_a_crash_ends_one_job_only_and_a_stopped_job_saves(engine: Ray, make: Callable[..., Job]) -> None:
    crash = make(0, "+callbacks.crash._target_=interruptions.StopAt", "+callbacks.crash.step=3")
    crash = Job(0, (*crash.overrides, "+callbacks.crash.how=SIGSEGV"), crash.run)
    handle = engine.start(crash)
    assert end_of(handle) == Exit(-signal.SIGSEGV)
    job = make(1, ENDLESS)
    second: Any = engine.start(job)
    assert second.slot is handle.slot
    wait_until(job.run.last.exists, second)
    second.stop()
    assert end_of(second) == Exit(128 + signal.SIGTERM)
    assert job.run.read_result().status == "interrupted"
    third = engine.start(make(1, ENDLESS))
    wait_until(lambda: "epoch" in job.console.read_text().rpartition("$ python")[2], third)
    assert "resume=" in job.console.read_text()
    third.kill()
    assert end_of(third) == Exit(-signal.SIGKILL)
    wait_until(lambda: not processes_with(job.console), seconds=5)


@needs_ray
@pytest.mark.slow
def test_a_node_without_the_run_directory_is_named(engine: Ray, make: Callable[..., Job]) -> None:
    job = make(0)
    job.run.path.rmdir()
    handle = engine.start(job)
    with pytest.raises(UserError, match=r"^launcher=ray: the node \S+ has no \S+000: the working directory"):
        end_of(handle)
    handle.kill()


@needs_ray
@pytest.mark.slow
def test_a_job_that_is_still_queued_stops_at_once(engine: Ray, make: Callable[..., Job]) -> None:
    handles = [engine.start(make(number, ENDLESS)) for number in range(3)]
    wait_until(lambda: sum(make(number).console.exists() for number in range(3)) == 2, *handles)
    (queued,) = [handle for number, handle in enumerate(handles) if not make(number).console.exists()]
    queued.stop()
    assert queued.poll() == Exit(-signal.SIGTERM, reason="stopped before it fitted on a node")
    for handle in handles:
        handle.kill()


@needs_ray
@pytest.mark.slow
def test_a_job_of_a_killed_node_is_lost_and_resumes_on_another_node(
    nodes: RayNodes, engine: Ray, make: Callable[..., Job]
) -> None:
    import ray

    head = ray.get_runtime_context().get_node_id()
    jobs = [make(number, "trainer.max_epochs=40", "model=cnn_gap") for number in range(2)]
    handles: list[Any] = [engine.start(job) for job in jobs]
    wait_until(lambda: all(job.run.last.exists() for job in jobs), *handles)
    (lost,) = [number for number, handle in enumerate(handles) if node_of(handle) != head]
    nodes.kill_last()
    try:
        wait_until(lambda: not processes_with(jobs[lost].console), seconds=10)
        end = end_of(handles[lost])
        assert end.lost
        assert "Ray lost it" in end.reason
        assert jobs[lost].run.read_result().status == "interrupted"
        again: Any = engine.start(make(lost))  # is queued until the other has ended, and then has its actor
        assert end_of(handles[1 - lost]) == Exit(0)
        assert end_of(again) == Exit(0)
        assert again.slot is handles[1 - lost].slot
        results = [job.run.read_result() for job in jobs]
        assert [result.status for result in results] == ["finished", "finished"]
        assert results[0].metrics == results[1].metrics
        assert "resume=" in jobs[lost].console.read_text()
    finally:
        nodes.add()


DRIVER = """
import sys, time
from pathlib import Path
from opsin.runs.directory import RunDirectory
from opsin.sweeps.launchers.base import Job
from opsin.sweeps.launchers.ray import Ray
from opsin.sweeps.checked_sweep import SCHEMA
address, run, *words = sys.argv[1:]
handle = Ray(address).start(Job(0, tuple(words), RunDirectory(Path(run))))
while True:
    handle.poll()
    time.sleep(0.1)
"""


@needs_ray
@pytest.mark.slow
def test_a_sweep_that_is_killed_leaves_no_job_behind(nodes: RayNodes, make: Callable[..., Job]) -> None:
    job = make(0, ENDLESS)
    command = [sys.executable, "-c", DRIVER, nodes.address, str(job.run.path), *job.overrides]
    with subprocess.Popen(command) as sweep:
        wait_until(job.run.last.exists)
        assert len(processes_with(job.console)) == 1
        os.kill(sweep.pid, signal.SIGKILL)
    wait_until(lambda: not processes_with(job.console), seconds=10)
