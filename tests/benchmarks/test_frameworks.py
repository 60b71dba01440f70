"""The comparison with fastai and timm: its goals, its errors, and the script for timm."""

import subprocess
import sys

import pytest

from benchmarks import frameworks as module
from benchmarks.datasets import photos
from benchmarks.frameworks import TITLES, frameworks
from benchmarks.goals import spread
from benchmarks.session import Session
from benchmarks.startup_memory_scaling import ROOT


def test_goals_are_ratios_of_medians():
    times = {"opsin": [30.0, 20.0, 25.0], "timm_tuned": [50.0], "timm": [100.0], "fastai": [20.0]}
    found = module._goals({name: spread(values) for name, values in times.items()})
    assert [goal.value for goal in found] == [0.5, 0.25, 1.25]
    assert [goal.status for goal in found] == ["met", "met", "not met"]
    assert found[0].text.startswith("0.50 (25.0 (20.0 to 30.0) s against 50.0")


def test_contenders_run_in_turn_and_their_accuracy_is_kept(tmp_path, monkeypatch):
    order = []

    def contender(name):
        return lambda folder: order.append((name, folder.name)) or 0.5

    monkeypatch.setattr(module, "photos", lambda *_: (tmp_path, True))
    monkeypatch.setattr(module, "_environment_with_fastai", lambda folder: folder)
    monkeypatch.setattr(module, "_contenders", lambda *_: {name: contender(name) for name in TITLES})
    figures, found = frameworks(Session(tmp_path, tmp_path, runs=2, quick=False, log=lambda _: None))
    assert [name for name, _ in order] == [*TITLES, *TITLES]
    assert figures["timm"]["accuracies"] == [0.5, 0.5]
    assert figures["timm"]["n"] == 2
    assert len(found) == 3


def test_a_failed_command_is_reported(tmp_path, monkeypatch):
    failing = [sys.executable, "-c", "import no_such_framework"]
    monkeypatch.setattr(module, "photos", lambda *_: (tmp_path, True))
    monkeypatch.setattr(module, "_environment_with_fastai", lambda _: module._run(failing))
    figures, (goal,) = frameworks(Session(tmp_path, tmp_path, quick=True, log=lambda _: None))
    assert "No module named 'no_such_framework'" in figures["error"]
    assert goal.status == "not measured"


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["plain", "tuned"])
def test_the_script_for_timm_trains_and_tests(tmp_path, settings):
    images, _ = photos(tmp_path / "none", tmp_path / "photos", (16, 4, 4))
    script = ROOT / "benchmarks" / "framework_runs" / "timm_run.py"
    arguments = [str(images), str(tmp_path / "out"), "32", "2", "8", "0", settings]
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=True)
    assert float(done.stdout.split()[-1]) in (0.0, 0.25, 0.5, 0.75, 1.0)
    assert (tmp_path / "out" / "summary.csv").read_text().count("\n") == 3
    assert (tmp_path / "out" / "model_best.pth.tar").exists()
