"""The GPUs of jobs on this machine."""

import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from opsin.runs.directory import RunDirectory
from opsin.sweeps.launchers import local
from opsin.sweeps.launchers.base import Job, can_start
from opsin.sweeps.launchers.local import Local, LocalHandle
from opsin.sweeps.runner import Stop
from opsin.sweeps.sweep import run_all


class Process:
    """A fake process. The test ends it."""

    def __init__(self, target: Any, args: tuple[Job, dict[str, str], float | None]) -> None:
        self.gpus = args[1].get("CUDA_VISIBLE_DEVICES", "").split(",")
        self.exitcode: int | None = None

    def start(self) -> None:
        pass


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(gpus: str, **options: Any) -> Local:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
        monkeypatch.setattr(local, "PRELOADED", [])
        made = Local(threads=1, **options)
        made._context = SimpleNamespace(Process=Process)
        return made

    return make


def job(devices: int) -> Job:
    return Job(0, (), RunDirectory(Path("run")), devices)


def gpus_of(handle: LocalHandle) -> list[str]:
    process: Any = handle._process
    return list(process.gpus)


def end(handle: LocalHandle) -> None:
    process: Any = handle._process
    process.exitcode = 0
    handle.poll()


@pytest.mark.parametrize(("gpus", "per_gpu"), [("0,1", 2), ("4,5,7", 2), ("0,1,2,3", 3), ("0", 3), ("0,1", 1)])
def test_a_job_has_distinct_gpus_and_a_gpu_no_more_jobs_than_its_places(launcher: Any, gpus: str, per_gpu: int) -> None:
    draw, made = random.Random(gpus), launcher(gpus, jobs_per_gpu=per_gpu)
    names = gpus.split(",")
    assert made.slots == per_gpu * len(names)
    waiting = [job(draw.randint(1, len(names))) for _ in range(200)]
    running: list[tuple[Job, LocalHandle]] = []
    while waiting or running:
        while waiting and can_start(made, waiting[0], [one for one, _ in running]):
            one = waiting.pop(0)
            running.append((one, made.start(one)))
            found = gpus_of(running[-1][1])
            assert len(set(found)) == len(found) == one.devices
            assert set(found) <= set(names)
        count = Counter(gpu for _, handle in running for gpu in gpus_of(handle))
        assert max(count.values()) <= per_gpu
        end(running.pop(draw.randrange(len(running)))[1])


def test_a_job_waits_until_enough_distinct_gpus_are_free(launcher: Any) -> None:
    made, one, two = launcher("0,1", jobs_per_gpu=2), job(1), job(2)
    first, second, third, fourth = [made.start(one) for _ in range(4)]
    assert [gpus_of(handle) for handle in (first, second, third, fourth)] == [["0"], ["1"], ["0"], ["1"]]
    end(second)
    end(fourth)
    assert not can_start(made, two, [one, one])  # two slots are free, both on one GPU
    end(first)
    assert can_start(made, two, [one])
    assert sorted(gpus_of(made.start(two))) == ["0", "1"]


def test_more_jobs_than_gpus_are_spread_and_do_not_wait(launcher: Any) -> None:
    made, jobs = launcher("0,1", jobs=6), [job(devices) for devices in (1, 2, 1, 2)]
    found = []
    for number, one in enumerate(jobs):
        assert can_start(made, one, jobs[:number])
        found.append(gpus_of(made.start(one)))
    assert [sorted(gpus) for gpus in found] == [["0"], ["0", "1"], ["1"], ["0", "1"]]


def test_a_job_of_more_devices_than_there_are_gpus_starts_alone(launcher: Any) -> None:
    made = launcher("0", jobs_per_gpu=2)
    assert not can_start(made, job(3), [job(1)])
    assert can_start(made, job(3), [])
    assert gpus_of(made.start(job(3))) == ["0"]


@pytest.mark.parametrize("devices", [(2, 2, 2), (1, 2, 1, 2), (3, 1, 2), (1, 1, 1, 1)])
def test_best_runs_are_tested_on_no_more_devices_than_there_are_slots(devices: tuple[int, ...]) -> None:
    class Launcher:
        slots, threads = 2, 1

        def __init__(self) -> None:
            self.running, self.done = list[int](), list[int]()

        def has_room(self, job: Job) -> bool:
            return True

        def start(self, job: Job) -> Any:
            self.running.append(job.devices)
            assert sum(self.running) <= 2 or len(self.running) == 1

            def poll() -> int:
                self.running.remove(job.devices)
                self.done.append(job.devices)
                return 0

            return SimpleNamespace(poll=poll)

        def close(self) -> None:
            pass

    made = Launcher()
    run_all(made, [job(count) for count in devices], Stop())
    assert made.done == list(devices)
