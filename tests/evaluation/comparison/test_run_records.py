import shutil
from pathlib import Path

import pytest
from made_runs import made_run

from opsin.errors import UserError
from opsin.evaluation.comparison.run_records import collect, read_record
from opsin.runs.directory import RunDirectory
from opsin.runs.result import RunResult


def test_runs_are_found_at_any_depth_each_once(tmp_path: Path) -> None:
    runs = [made_run(tmp_path / "outputs" / place, [True]) for place in ("day/one", "day/sweep/0_a", "day/sweep/1_b")]
    (tmp_path / "outputs" / "latest").symlink_to(runs[0].path)
    places = [tmp_path / "outputs" / "day" / "one", tmp_path / "outputs", tmp_path / "outputs" / "latest"]
    assert [record.run.path for record in collect(places)] == [run.path for run in runs]


def test_a_path_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere is not a folder: it does not exist"):
        collect([tmp_path / "nowhere"])
    (tmp_path / "latest").symlink_to("deleted")
    with pytest.raises(UserError, match=r"latest is not a folder: it is a link to .*deleted, which does not exist"):
        collect([tmp_path / "latest"])
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file is not a folder\. Give"):
        collect([tmp_path / "file"])
    (tmp_path / "file").unlink()
    with pytest.raises(UserError, match="contains no run"):
        collect([tmp_path])


def test_runs_without_a_result_have_a_status(tmp_path: Path) -> None:
    for name in ("ok", "failed", "stopped", "broken", "list", "old", "begun", "bad_config"):
        made_run(tmp_path / name, [True])
    pruned = {"pruned": True, "stopped": "pruned: val/loss 0.9000 after 3 epochs"}
    made_run(tmp_path / "pruned", [True], result=pruned)
    made_run(tmp_path / "resumed", [True], result={**pruned, "status": "interrupted"})
    RunDirectory(tmp_path / "failed").write_result(RunResult(status="failed", error="UserError: no\nweights"))
    RunDirectory(tmp_path / "stopped").write_result(RunResult(status="interrupted"))
    (tmp_path / "broken/result.json").write_text('{"status": "fini')
    (tmp_path / "list/result.json").write_text("[1]")
    (tmp_path / "old/result.json").write_text('{"status": "finished", "versions": {"opsin": "0.1.0"}}')
    (tmp_path / "begun/result.json").unlink()
    (tmp_path / "bad_config/config.yaml").write_text("a: [1\nb: ${nothing}")
    (tmp_path / "job").mkdir()
    (tmp_path / "job/error.txt").write_text("Traceback\n  here\nopsin.errors.UserError: a typo\n\n")
    found = {record.run.path.name: record for record in collect([tmp_path])}
    assert {name: record.status for name, record in found.items()} == {
        "ok": "finished",
        "failed": "failed",
        "stopped": "interrupted",
        "pruned": "pruned",
        "resumed": "interrupted",
        "broken": "unreadable",
        "list": "unreadable",
        "old": "unreadable",
        "begun": "no result",
        "bad_config": "unreadable",
        "job": "failed",
    }
    assert found["pruned"].reason == "val/loss 0.9000 after 3 epochs"
    assert found["failed"].reason == "UserError: no weights"
    assert "was written by Opsin 0.1.0" in found["old"].reason
    assert found["job"].reason == "opsin.errors.UserError: a typo"
    assert [name for name, record in found.items() if record.metrics] == ["ok"]


def test_the_digest_depends_on_the_positions(tmp_path: Path) -> None:
    runs = [made_run(tmp_path / name, [True] * length) for name, length in (("all", 9), ("again", 9), ("some", 4))]
    digests = [read_record(run).images_digest("test") for run in runs]
    assert digests[0] == digests[1] != digests[2]
    shutil.rmtree(runs[0].path / "predictions")
    assert read_record(runs[0]).images_digest("test") is None
