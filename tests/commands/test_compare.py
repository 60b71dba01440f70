"""`opsin compare`: exit code 1 if a run that it names is not ranked with the others, and the place of the page."""

import shutil
from pathlib import Path

import pytest
from made_runs import made_run

from opsin.commands.compare import main


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for name, right in (("a", 90), ("b", 70)):
        made_run(tmp_path / name, [i < right for i in range(100)], overrides=[f"optimizer.lr=0.{right}"])
    return tmp_path


def test_ranked_runs_and_folders_with_failed_ones_give_0(runs: Path) -> None:
    (runs / "failed").mkdir()
    (runs / "failed" / "error.txt").write_text("out of memory\n")
    assert main([str(runs), "--json"]) == 0
    assert main([str(runs / "a"), str(runs / "b"), "--json"]) == 0


def test_a_named_run_that_failed_gives_1_and_its_reason(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "failed").mkdir()
    (runs / "failed" / "error.txt").write_text("Traceback ...\nout of memory\n")
    assert main([str(runs / "a"), str(runs / "failed"), "--json"]) == 1
    assert f"not compared: {runs / 'failed'} (failed: out of memory)" in capsys.readouterr().err
    assert main([str(runs / "failed"), "--json"]) == 1
    assert "no run has finished" in capsys.readouterr().err


def test_named_runs_that_cannot_be_ranked_together_give_1(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_run(runs / "other", [i < 50 for i in range(60)], overrides=["optimizer.lr=0.5"])
    assert main([str(runs / "a"), str(runs / "other"), "--json"]) == 1
    assert "not ranked together: their images differ" in capsys.readouterr().err
    shutil.rmtree(runs / "b" / "predictions")
    assert main([str(runs / "a"), str(runs / "b"), "--json"]) == 1
    assert "not ranked: B" in capsys.readouterr().err


def test_a_named_run_without_the_metric_gives_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, correct in enumerate(([True, False], None)):
        made_run(tmp_path / str(seed), correct, overrides=[f"seed={seed}"], origin="carved")
    assert main([str(tmp_path), "--json"]) == 0
    assert main([str(tmp_path / "0"), str(tmp_path / "1"), "--json"]) == 1
    assert f"not compared: {tmp_path / '1'} (no test/acc)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "place"),
    [
        (["runs"], "runs"),
        (["runs/day1"], "runs/day1"),
        (["runs/day1/a", "runs/day1/b"], "runs/day1"),
        (["runs/day1/a", "runs/day2/c"], "runs"),
        (["runs/day1/a"], "runs/day1"),
        (["latest", "runs/day1/b"], "runs/day1"),
    ],
)
def test_the_command_decides_where_the_page_is_written(given: list[str], place: str, in_tmp: Path) -> None:
    for name in ("day1/a", "day1/b"):
        made_run(in_tmp / "runs" / name, [True, False])
    made_run(in_tmp / "runs" / "day2" / "c", result={"status": "failed", "metrics": {}})
    (in_tmp / "latest").symlink_to("runs/day1/a")
    main(given)
    assert list(in_tmp.rglob("comparison.html")) == [in_tmp / place / "comparison.html"]
