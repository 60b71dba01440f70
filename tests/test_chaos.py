"""The program of `make chaos`: its comparison of runs, its table, and a few of its faults."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from opsin.runs.directory import RunDirectory
from tests.chaos import damages, kills, surroundings
from tests.chaos.outcomes import FAULTS, Outcome, table
from tests.chaos.run_state import differences

ROOT = Path(__file__).resolve().parents[1]


def change_weights(run: RunDirectory) -> None:
    content = torch.load(run.best, weights_only=True)
    state = content["state_dict"]
    name = next(iter(state))
    state[name] = torch.nextafter(state[name], state[name] + 1)  # by one bit
    run.best.unlink()  # last.ckpt may be the same file
    torch.save(content, run.best)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda run: None, []),
        (change_weights, ["best: state_dict"]),
        (lambda run: run.last.unlink(), ["last.ckpt missing"]),
        (lambda run: run.metrics.write_text(run.metrics.read_text() + "9,9\n"), ["metrics.csv"]),
        (lambda run: (run.path / "predictions" / "test.npz").unlink(), ["predictions of test"]),
        (lambda run: (run.path / "train.log").write_text("epoch 7/9\n"), ["train.log: epoch 7/9 1 times"]),
    ],
)
def test_every_difference_is_found(digits_run: RunDirectory, tmp_path: Path, change, found: list[str]) -> None:
    for name in ("run", "whole"):
        shutil.copytree(digits_run.path, tmp_path / name)
    change(RunDirectory(tmp_path / "run"))
    assert differences(tmp_path / "run", tmp_path / "whole") == found


def test_the_table_shows_losses() -> None:
    good, bad = Outcome(compared="weights"), Outcome(compared="weights")
    good.add([])
    bad.add([])
    bad.add(["metrics.csv"], "step 3")
    rows = table({"clock": good, "threads": bad, "full-disk": Outcome(skipped="no root")}).splitlines()
    assert [outcome.good for outcome in (good, bad, Outcome())] == [True, False, False]
    assert "nothing | 1 of 1 |" in rows[2]
    assert "step 3: metrics.csv | 1 of 2 |" in rows[3]
    assert "not injected: no root" in rows[4]


def test_every_fault_has_a_description() -> None:
    assert {function.__module__ for _, function in FAULTS.values()} == {
        m.__name__ for m in (damages, kills, surroundings)
    }
    assert len({description for description, _ in FAULTS.values()}) == len(FAULTS) >= 18


@pytest.mark.slow
def test_a_few_faults_lose_nothing() -> None:
    command = [sys.executable, "-m", "tests.chaos", "kill-digits", "kill-writes", "two-resumes", "--kills", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert "3 of 3" in done.stdout
