"""The command line of the range test."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def find_lr(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "find_lr.py"), *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_the_range_test_suggests_a_rate_and_draws_the_curve(tmp_path: Path) -> None:
    done = find_lr(tmp_path, "model=mlp", "trainer=cpu", "--steps", "60", "optimizer.lr=0.5")
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.glob("outputs/*/*_find_lr_digits_mlp_*")
    curve = json.loads((folder / "lr_curve.json").read_text())
    rows = list(csv.DictReader((folder / "lr_curve.csv").read_text().splitlines()))
    assert [float(row["lr"]) for row in rows] == curve["lr"]
    assert curve["valley"] in curve["lr"]
    assert (folder / "lr_curve.png").stat().st_size > 5000
    used = re.search(r"python \S*train\.py model=mlp trainer=cpu optimizer\.lr=(\S+)\n", done.stdout)
    assert used
    assert abs(float(used[1]) / curve["valley"] - 1) < 0.06
    assert {path.name for path in tmp_path.rglob("*.ckpt")} == set()
    assert {path.name for path in tmp_path.iterdir()} <= {"outputs", "data"}


@pytest.mark.slow
def test_invalid_arguments_give_one_message(tmp_path: Path) -> None:
    for words, part in (
        (["model=mlp", "optimizer.lrr=1"], "optimizer.lrr=1 is not known: did you mean optimizer.lr=1?"),
        (["--steps", "3"], "--steps must be 20 to 1000"),
        (["--highest", "inf"], "below --highest, which must be finite"),
        (["--highest", "nan"], "below --highest, which must be finite"),
    ):
        done = find_lr(tmp_path, *words)
        assert done.returncode in (1, 2)
        assert part in done.stderr
        assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
