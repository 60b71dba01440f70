"""Sweeps in real processes: started, killed and resumed, with short runs on the digits."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sweep_commands import (
    ROOT,
    ends,
    finish,
    printed,
    processes_of,
    processes_that_write,
    rows,
    runs,
    start,
    wait_for,
)


@pytest.mark.slow
def test_failed_runs_are_named_and_the_others_complete(tmp_path: Path) -> None:
    overrides = ("trainer.max_epochs=2", "+callbacks.fault._target_=faults.Fault")
    kinds = "+callbacks.fault.kind=none,segfault,memory,diverge"
    output = finish(tmp_path, *overrides, kinds, "launcher.memory_gb=20", code=1)
    reasons = {row["overrides"].split("=")[1]: row["reason"] for row in rows(tmp_path)}
    assert "SIGSEGV" in reasons["segfault"]
    assert "can't allocate memory" in reasons["memory"]
    assert "training diverged" in reasons["diverge"]
    assert reasons["none"] == ""
    for run in runs(tmp_path)[1:]:
        assert (run / "error.txt").stat().st_size > 100
        assert f"failed: {run.name}: " in output
    assert "faults.py" in (runs(tmp_path)[1] / "error.txt").read_text()  # location of the crash
    assert "Traceback" in (runs(tmp_path)[2] / "error.txt").read_text()
    assert [row["state"] for row in rows(tmp_path)] == ["complete", *["failed"] * 3]
    best = json.loads((runs(tmp_path)[0] / "result.json").read_text())
    assert "test/acc" in best["metrics"]

    again = finish(tmp_path, *overrides, kinds, "launcher.memory_gb=20", code=1)
    assert "4 (4 ended before)" in again
    assert again[again.index("sweep by") :] == output[output.index("sweep by") :]


@pytest.mark.slow
def test_a_search_killed_twice_runs_every_trial_once(tmp_path: Path) -> None:
    overrides = (
        "sweep=search",
        "sweep.trials=10",
        "optimizer.lr=tag(log,interval(0.0001,0.1))",
        "model.hidden=int(interval(16,64))",
        "trainer.max_epochs=5",
        "launcher.jobs=2",
        "launcher.threads=1",
    )
    draw = random.Random(os.getpid())
    for wanted in (1, 5):
        process = start(tmp_path, *overrides)
        wait_for(lambda: len(runs(tmp_path)) > wanted or process.poll() is not None)  # noqa: B023
        time.sleep(draw.uniform(0, 1.5))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        wait_for(lambda: not processes_of(tmp_path), seconds=20)
    assert sum(map(ends, runs(tmp_path))) < 10
    finish(tmp_path, *overrides)
    found = rows(tmp_path)
    assert sorted(int(row["trial"]) for row in found) == list(range(10))
    assert {row["state"] for row in found} <= {"complete", "pruned"}
    assert [ends(run) for run in runs(tmp_path)] == [1] * 10
    values = [float(row["val/loss"]) for row in found if row["state"] == "complete"]
    assert values == sorted(values)
    assert [bool(row["test/acc"]) for row in found] == [True, *[False] * 9]
    [folder] = tmp_path.glob("outputs/sweeps/*")
    for name in ("history", "importance", "parallel_coordinate"):
        assert (folder / f"{name}.png").stat().st_size > 5_000

    command = [sys.executable, str(ROOT / "train.py"), "--config-dir", str(folder), "experiment=best"]
    subprocess.run([*command, "hydra.run.dir=again", "report=false"], cwd=tmp_path, check=True, capture_output=True)
    again = json.loads((tmp_path / "again" / "result.json").read_text())["metrics"]
    best = json.loads((folder / found[0]["run"] / "result.json").read_text())["metrics"]
    assert again == best


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_ends_a_sweep_that_the_same_command_resumes(tmp_path: Path, times: int) -> None:
    overrides = ("seed=range(4)", "trainer.max_epochs=30", "datamodule.train_fraction=1", "launcher.jobs=2")
    process = start(tmp_path, *overrides)
    wait_for(lambda: len(list(tmp_path.glob("outputs/sweeps/*/*/metrics.csv"))) == 2)
    for _ in range(times):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.3)
    assert process.wait(timeout=300) == 130, printed(tmp_path)
    wait_for(lambda: not processes_of(tmp_path), seconds=20)
    assert len(runs(tmp_path)) == 2
    statuses = [json.loads((run / "result.json").read_text())["status"] for run in runs(tmp_path)]
    assert statuses == (["finished"] * 2 if times == 1 else ["interrupted"] * 2)
    output = printed(tmp_path)
    assert "No more runs are started" in output
    assert "the same command resumes the sweep" in output
    finish(tmp_path, *overrides)
    assert [ends(run) for run in runs(tmp_path)] == [1] * 4
    assert [row["state"] for row in rows(tmp_path)] == ["complete"] * 4
    assert all(row["test/acc"] for row in rows(tmp_path))  # all are repetitions of the best recipe


@pytest.mark.slow
def test_a_worse_run_is_pruned(tmp_path: Path) -> None:
    overrides = ("optimizer.lr=0.01,0.011,0.012,0.013,0.0000001", "trainer.max_epochs=6", "launcher.jobs=1")
    finish(tmp_path, *overrides, "sweep.pruner=median", "sweep.pruner_epochs=2")
    *others, last = rows(tmp_path)
    assert {row["state"] for row in others} == {"complete"}
    assert (last["overrides"], last["state"], last["epochs"]) == ("optimizer.lr=1e-07", "pruned", "2")
    assert "pruned: val/loss" in (runs(tmp_path)[4] / "console.txt").read_text()


@pytest.mark.slow
def test_a_sweep_with_two_objectives_and_two_processes_per_run_completes(tmp_path: Path) -> None:
    overrides = (
        "model.hidden=8,64",
        "trainer=ddp_cpu",
        "trainer.max_epochs=2",
        "sweep.objectives=[val/acc,parameters]",
    )
    finish(tmp_path, *overrides, "sweep.name=both")
    found = rows(tmp_path)
    assert [float(row["parameters"]) for row in found] in ([50_890, 6_370], [6_370, 50_890])
    folder = tmp_path / "outputs" / "sweeps" / "both"
    assert (folder / "pareto.png").exists()
    assert (
        len(list(tmp_path.glob("outputs/**/result.json"))) == 2
    )  # the second process of a run starts no run of its own
    result = json.loads((folder / found[0]["run"] / "result.json").read_text())
    assert result["settings"]["devices"] == 2
    output = finish(tmp_path, "model.hidden=8,16", "sweep.name=both", code=1)
    assert "holds another sweep" in output


@pytest.mark.slow
def test_two_processes_share_a_sweep(tmp_path: Path) -> None:
    overrides = ("seed=range(6)", "trainer.max_epochs=2", "launcher.jobs=1")
    one = start(tmp_path, *overrides)
    wait_for(lambda: bool(runs(tmp_path)))
    output = finish(tmp_path, *overrides)
    assert "shared     with" in output
    assert one.wait(timeout=200) == 0
    consoles = [(run / "console.txt").read_text() for run in runs(tmp_path)]
    assert len(consoles) == 6
    assert all(console.count("no test images were read") == 1 for console in consoles)
    assert all(console.count("test accuracy") == 1 for console in consoles)
    assert [row["state"] for row in rows(tmp_path)] == ["complete"] * 6


@pytest.mark.slow
def test_a_job_that_is_killed_is_resumed_by_the_same_command(tmp_path: Path) -> None:
    overrides = ("seed=0,1", "trainer.max_epochs=30", "datamodule.train_fraction=1", "launcher.jobs=2")
    overrides = (*overrides, "sweep.pruner=median")  # the study accepts reports of the resumed run too
    process = start(tmp_path, *overrides)
    wait_for(lambda: len(list(tmp_path.glob("outputs/sweeps/*/*/metrics.csv"))) == 2)
    victim = runs(tmp_path)[0]
    [group] = {int(pid) for pid in processes_that_write(victim / "console.txt")}
    os.killpg(group, signal.SIGKILL)
    assert process.wait(timeout=200) == 1, printed(tmp_path)
    assert "killed (SIGKILL)" in printed(tmp_path)
    assert json.loads((victim / "result.json").read_text())["status"] == "interrupted"
    output = finish(tmp_path, *overrides)
    assert [row["state"] for row in rows(tmp_path)] == ["complete"] * 2
    assert runs(tmp_path)[0] == victim
    assert "resumed at step" in (victim / "train.log").read_text()
    assert "repeat best" in output


@pytest.mark.slow
def test_a_suspended_job_is_named_and_two_ctrl_c_end_the_sweep(tmp_path: Path) -> None:
    overrides = ("seed=0,1", "trainer.max_epochs=300", "datamodule.train_fraction=1", "launcher.jobs=1")
    process = start(tmp_path, *overrides)
    wait_for(lambda: len(list(tmp_path.glob("outputs/sweeps/*/*/metrics.csv"))) == 1)
    [group] = {int(pid) for pid in processes_that_write(runs(tmp_path)[0] / "console.txt")}
    os.killpg(group, signal.SIGSTOP)
    wait_for(lambda: f"trial 0 is suspended; continue it with: kill -CONT -{group}" in printed(tmp_path), seconds=30)
    for _ in range(2):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.3)
    began = time.monotonic()
    assert process.wait(timeout=100) == 130, printed(tmp_path)
    assert time.monotonic() - began < 50  # not the grace period of a job that does not answer
    assert json.loads((runs(tmp_path)[0] / "result.json").read_text())["status"] == "interrupted"
    wait_for(lambda: not processes_of(tmp_path), seconds=20)
