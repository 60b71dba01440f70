"""Jobs on a real SLURM of one node, started here."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engines import slurm as engine
from opsin.errors import UserError
from opsin.runs.directory import RunDirectory
from opsin.sweeps.launchers import Slurm, slurm_queue
from opsin.sweeps.launchers.base import Exit, Handle, Job
from opsin.sweeps.launchers.slurm import name_of

TESTS = Path(__file__).resolve().parents[2]
QUICK = ("model=mlp", "trainer.max_epochs=2", "datamodule.train_fraction=0.2", "report=false", "logger=none")
SLOW = ("+callbacks.slow._target_=engines.slowness.Slow", "+callbacks.slow.seconds=2")
PATIENCE_S = 240.0

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[engine.Slurm]:
    pytest.importorskip("submitit", reason="submitit is not installed: pip install 'opsin[slurm]'")
    if not engine.HOME.exists():
        pytest.skip("no SLURM to start: python tests/engines/slurm.py install (Debian, needs the network)")
    if os.geteuid() != 0:
        pytest.skip("SLURM's daemons start as root only")
    cluster = engine.Slurm(tmp_path_factory.mktemp("slurm"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.environment.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", f"{TESTS}:{TESTS / 'helpers'}:{os.environ.get('PYTHONPATH', '')}")
        patch.setenv("OPSIN_TARGETS", "engines")
        patch.setattr(slurm_queue, "REFRESH_S", 0.5)
        cluster.start()
        yield cluster
        cluster.stop()


@pytest.fixture
def make_job(cluster: engine.Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job]:
    """A job of a sweep that starts or resumes the run in a directory."""
    monkeypatch.setenv("OPSIN_TARGETS", "engines")

    def make(number: int, *words: str, devices: int = 1) -> Job:
        run = RunDirectory(tmp_path / "outputs" / f"{number:03d}")
        run.path.mkdir(parents=True, exist_ok=True)
        places = (f"data_dir={tmp_path / 'data'}", f"output_dir={tmp_path / 'outputs'}", f"hydra.run.dir={run.path}")
        begins = (*QUICK, *words, *places)
        goes_on = (f"resume={run.path}", "callbacks.slow.seconds=0")
        return Job(number, goes_on if run.config.exists() else begins, run, devices)

    return make


def until(condition: Callable[[], Any], job: Job | None = None) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.1)
    raise AssertionError(f"nothing happened in {PATIENCE_S} s: {job and job.console.read_text()}")


def end_of(handle: Handle) -> Exit:
    end = until(handle.poll)
    assert isinstance(end, Exit)
    return end


def trains(job: Job) -> None:
    """Wait until a slow run trains and will save after a stop signal."""
    until(lambda: "slowly" in job.console.read_text(), job)


def processes_of(job: Job) -> list[str]:
    found = subprocess.run(["pgrep", "-f", str(job.run.path)], capture_output=True, text=True, check=False)
    return found.stdout.split()


def metrics(job: Job) -> dict[str, float]:
    result = job.run.read_result()
    assert result.status == "finished"
    return result.metrics


def test_jobs_of_one_and_of_two_devices_run_at_once(make_job: Callable[..., Job]) -> None:
    launcher = Slurm(threads=1)
    jobs = [make_job(0, "trainer=cpu"), make_job(1, "trainer=ddp_cpu", devices=2), make_job(2, "model.wide=3")]
    handles = [launcher.start(job) for job in jobs]
    assert [end_of(handle) for handle in handles] == [Exit(0), Exit(0), Exit(1)]
    for job in jobs[:2]:
        assert metrics(job)["test/acc"] > 0.5
    assert [job.run.read_result().settings.devices for job in jobs[:2]] == [1, 2]
    assert [job.run.read_result().settings.threads for job in jobs[:2]] == [1, 1]
    assert jobs[0].console.read_text().startswith("job started: opsin train model=mlp")
    assert "\x1b" not in jobs[0].console.read_text()  # a terminal's
    assert "model.wide=3 is not known" in jobs[2].console.read_text()


def test_a_run_longer_than_its_job_resumes_with_the_same_metrics(make_job: Callable[..., Job]) -> None:
    launcher = Slurm(threads=1, minutes=2, warning_s=30)  # SLURM then warns 60 to 90 s after the beginning
    undisturbed, job = make_job(0, "trainer=cpu"), make_job(1, "trainer=cpu", *SLOW, "callbacks.slow.seconds=6")
    handles = [launcher.start(undisturbed), launcher.start(job)]
    assert end_of(handles[0]) == Exit(0)
    end = end_of(handles[1])
    assert (end.code, end.lost) == (143, True)
    assert job.run.last.exists()
    assert job.run.read_result().status == "interrupted"
    assert end_of(launcher.start(make_job(1))) == Exit(0)
    assert metrics(job) == metrics(undisturbed)


def test_stopped_killed_and_canceled_jobs_are_distinguished(
    make_job: Callable[..., Job], cluster: engine.Slurm
) -> None:
    launcher = Slurm(threads=1)
    stopped = make_job(0, "trainer=ddp_cpu", *SLOW, devices=2)  # both of its processes get the signal
    killed, canceled = make_job(1, "trainer=cpu", *SLOW), make_job(2, "trainer=cpu", *SLOW)
    jobs = [stopped, killed, canceled]
    handles = [launcher.start(job) for job in jobs]
    for job in jobs:
        trains(job)
    handles[0].stop()
    handles[1].kill()
    cluster.command("scancel", f"--name={name_of(canceled)}")
    ends = [end_of(handle) for handle in handles]
    assert ends[0].code == 143
    assert stopped.run.last.exists()
    assert not processes_of(stopped)
    assert not processes_of(killed)
    assert not ends[2].lost
    assert "canceled in SLURM" in ends[2].reason
    waiting = launcher.start(make_job(3, "trainer=cpu", devices=99))  # more than there is
    waiting.stop()
    assert end_of(waiting).code == 143
    assert end_of(launcher.start(make_job(0, devices=2))) == Exit(0)
    assert metrics(stopped)["test/acc"] > 0.5


def test_requeued_preempted_and_failed_jobs_are_lost_and_resumed(
    make_job: Callable[..., Job], cluster: engine.Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_queue, "FORGET_S", 10.0)  # longer than KillWait of the cluster
    launcher = Slurm(threads=1)
    requeued, failing, undisturbed = (
        make_job(number, "trainer=cpu", *words) for number, words in enumerate((SLOW, SLOW, ()))
    )
    handles = [launcher.start(job) for job in (requeued, failing, undisturbed)]
    assert end_of(handles[2]) == Exit(0)
    for job in (requeued, failing):
        trains(job)
    number = cluster.command("squeue", "--noheader", "--format=%i", f"--name={name_of(requeued)}").stdout.strip()
    assert "disabled" in cluster.command("scontrol", "requeue", number).stderr  # only the sweep restarts it
    cluster.command("scontrol", "update", f"JobId={number}", "Requeue=1")
    assert cluster.command("scontrol", "requeue", number).returncode == 0
    assert end_of(handles[0]).lost
    cluster.command("scontrol", "update", f"NodeName={cluster.node}", "State=down", "Reason=test")
    end = end_of(handles[1])
    assert (end.lost, end.reason.partition(": ")[2]) == (True, "its node failed")
    assert not processes_of(failing)

    preempted = make_job(3, "trainer=cpu", *SLOW)
    handles = [launcher.start(job) for job in (preempted, make_job(0), make_job(1))]
    assert [end_of(handle) for handle in handles[1:]] == [Exit(0)] * 2
    trains(preempted)
    cluster.command("sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    assert end_of(handles[0]).lost
    assert end_of(launcher.start(make_job(3))) == Exit(0)
    for job in (requeued, failing, preempted):
        assert metrics(job) == metrics(undisturbed)


def test_a_sweep_adopts_the_job_of_a_dead_sweep(make_job: Callable[..., Job], cluster: engine.Slurm) -> None:
    job = make_job(0, "trainer=cpu")
    Slurm(threads=1).start(job)
    handle = Slurm(threads=1).start(job)
    assert len(cluster.command("squeue", "--noheader", f"--name={name_of(job)}").stdout.splitlines()) == 1
    other = cluster.command(
        "sbatch", f"--job-name={name_of(job)}", "--dependency=singleton", "--output=/dev/null", "--wrap=true"
    )
    until(lambda: "|Dependency" in cluster.command("squeue", "--noheader", "--format=%i|%r").stdout)
    assert end_of(handle) == Exit(0)
    assert metrics(job)["test/acc"] > 0.5
    assert job.console.read_text().count("job started: opsin train") == 1
    assert other.returncode == 0


def test_a_job_that_slurm_rejects_is_named_and_leaves_no_files(make_job: Callable[..., Job]) -> None:
    job = make_job(0, "trainer=cpu")
    with pytest.raises(UserError, match=r"sbatch rejected the job: .*[Ii]nvalid partition"):
        Slurm(partition="gpus").start(job)
    assert list((job.run.path / "slurm").iterdir()) == []


def test_a_failed_setup_reports_its_last_line_of_output(make_job: Callable[..., Job]) -> None:
    end = end_of(Slurm(threads=1, setup=["echo no such module >&2", "exit 3"]).start(make_job(0, "trainer=cpu")))
    assert end.code == 3
    assert "last line of its output: no such module" in end.reason


def test_a_temporarily_rejected_job_is_submitted_again(
    make_job: Callable[..., Job], cluster: engine.Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opsin.sweeps.launchers.slurm.RETRY_S", 0.5)
    launcher = Slurm(threads=1, setup=["exit 0"])
    assert end_of(launcher.start(make_job(0))) == Exit(0)
    cluster.command("scontrol", "update", "PartitionName=main", "State=inactive")
    handle = launcher.start(make_job(1))
    time.sleep(2)
    assert handle.poll() is None
    cluster.command("scontrol", "update", "PartitionName=main", "State=up")
    assert end_of(handle) == Exit(0)
