"""The benchmark command from end to end, with tiny workloads."""

import json
import runpy
import sys

import pytest

from benchmarks.contenders import Task
from benchmarks.main import main
from benchmarks.session import ContenderProcess, Session
from benchmarks.step_work import Peak, StepWork
from benchmarks.tables import WorkloadResult
from benchmarks.workloads import WORKLOADS


@pytest.mark.slow
def test_all_contestants_run_and_the_page_is_written(tmp_path, monkeypatch):
    page, figures = tmp_path / "benchmarks.md", tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["benchmarks/main.py"])
    overrides = ["--quick", "--threads", "1", "--only", "mnist_64", "--data-dir", str(tmp_path / "none")]
    assert main([*overrides, "--json", str(figures), "--write", str(page), "--work-dir", str(tmp_path)]) == 0
    tree = json.loads(figures.read_text())
    found = tree["workloads"]["mnist_64"]["contenders"]
    assert set(found) == {"bare", "bare_same", "common", "opsin"}
    assert all(one["speed"]["median"] > 0 and one["speed"]["n"] == 1 for one in found.values())
    assert found["common"]["facts"]["workers"] in (int(count) for count in found["common"]["facts"]["tried"])
    assert {goal["figure"] for goal in tree["goals"]} >= {"(d) / (b) mnist_64", "(d) / (c) mnist_64"}
    assert "(d) / (b) mnist_64" in page.read_text()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []  # temporary files are deleted


@pytest.mark.slow
def test_a_failed_contender_is_reported_and_does_not_stop_others(tmp_path):
    work = WORKLOADS[0].quick()
    contender = ContenderProcess("opsin", Task(work, tmp_path / "missing", tmp_path / "task"), threads=1)
    try:
        assert contender.receive() == {"ready": True}
        assert "MissingData: MNIST was not found" in contender.receive()["error"]
        assert "error" in contender.ask(1.0)
    finally:
        contender.stop()


def test_the_module_is_a_command(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "benchmarks.main")
    monkeypatch.setattr(sys, "argv", ["benchmarks/main.py", "--help"])
    with pytest.raises(SystemExit):
        runpy.run_module("benchmarks.main", run_name="__main__")
    assert "--only WORK" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "measured", "omitted"),
    [
        (["--all"], {"mnist_64", "startup", "sweep", "frameworks"}, None),
        (["--only", "sweep"], {"sweep"}, "not measured: mnist_256, mnist_64,"),
        ([], {"mnist_64", "startup"}, "not measured: sweep,"),
    ],
)
def test_what_is_not_measured_is_named(arguments, measured, omitted, tmp_path, monkeypatch, capsys):
    seen = set()
    module = sys.modules["benchmarks.main"]
    result = WorkloadResult(WORKLOADS[0], {}, False, StepWork(1.0, 1.0), Peak(1.0, "float32", 1))
    monkeypatch.setattr(module, "measure", lambda _, workload: seen.add(workload.name) or result)
    monkeypatch.setattr(module, "_extras", lambda _, selected: seen.update(selected) or ({}, []))
    assert module.main([*arguments, "--json", str(tmp_path / "figures.json")]) == 0
    assert measured <= seen
    printed = " ".join(capsys.readouterr().out.split())
    assert omitted is None or omitted in printed
    assert ("measure them with --only NAME" in printed) == (omitted is not None)


def test_a_session_needs_no_real_images(tmp_path):
    session = Session(tmp_path, tmp_path, quick=True)
    assert session.rounds == 3
    with pytest.raises(SystemExit):
        main(["--only", "nothing"])
