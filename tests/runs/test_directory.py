"""Run directories: their paths, two processes, and a clock that goes backwards."""

import ast
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from made_runs import made_run

import opsin
from opsin.errors import UserError
from opsin.runs import directory
from opsin.runs.directory import RunDirectory, find_runs, new_run_path
from opsin.runs.result import RunResult

SOURCE = Path(opsin.__file__).parent
HOLD = """
import sys, time
from pathlib import Path
from opsin.runs.directory import RunDirectory
with RunDirectory(Path(sys.argv[1])).locked(True):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_directory_has_one_writer_and_a_kill_releases_it(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    words = [sys.executable, "-c", HOLD, str(run.path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match="is being written by another process"), run.locked(True, timeout=0.1):
            pass
        with run.locked(False, timeout=0.1):
            pass  # a reader
        process.send_signal(signal.SIGKILL)
    with run.locked(True, timeout=0.1):
        assert run.path.is_dir()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_run_needs_no_locks_of_its_filesystem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    with RunDirectory(tmp_path / "run").locked(True, timeout=0.1):
        assert (tmp_path / "run").is_dir()


def test_a_defective_disk_is_no_filesystem_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(OSError, match="Input/output"), RunDirectory(tmp_path / "run").locked(True, timeout=0.1):
        pass


def test_a_run_killed_before_its_config_is_refused_with_advice(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(RuntimeError), run.recorded(True):  # the result is the first file of a run
        raise RuntimeError("killed before the config is written")
    with pytest.raises(UserError, match="start it again with the same command"):
        RunDirectory.of(run.path)


def test_runs_of_the_same_second_have_paths_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 1, 12, 0, 0)

    identifiers = iter(["aaaa", "aaaa", "bbbb"])
    monkeypatch.setattr(directory, "datetime", Clock)
    monkeypatch.setattr(directory.secrets, "token_hex", lambda size: next(identifiers))
    first = new_run_path(tmp_path, "digits")
    first.mkdir(parents=True)
    assert new_run_path(tmp_path, "digits").name == "12-00-00_digits_bbbb"


def test_the_newest_run_is_found_after_the_clock_went_back(tmp_path: Path) -> None:
    runs = [RunDirectory(tmp_path / name) for name in ("c", "a", "b")]
    for day, run in zip((30, 20, 10), runs, strict=True):  # each starts ten days before the one that it follows
        run.path.mkdir()
        for file in (run.config, run.result):
            file.write_text("{}")
            os.utime(file, (day * 86400, day * 86400))
        run.become_latest(tmp_path)
        assert (tmp_path / "latest").resolve() == run.path.resolve()
    assert [run.path.name for run in find_runs(tmp_path)] == ["b", "a", "c"]
    runs[0].become_latest(tmp_path)  # resumed
    assert [run.path.name for run in find_runs(tmp_path)] == ["c", "b", "a"]


def test_a_run_that_cannot_be_read_does_not_hide_the_others(in_tmp: Path) -> None:
    good = made_run(in_tmp / "outputs" / "good")
    good.checkpoints.mkdir()
    good.best.touch()
    for name in ("dangling", "circle", "own circle"):
        bad = made_run(in_tmp / "outputs" / name)
        bad.config.unlink()
        bad.config.symlink_to({"circle": "config.yaml", "own circle": bad.config}.get(name, "nothing"))
    (in_tmp / "outputs" / "latest").symlink_to("latest")
    assert [run.path.name for run in find_runs(in_tmp / "outputs")] == ["good"]
    with pytest.raises(UserError, match="the newest runs with a model are: outputs/good"):
        RunDirectory.of("other")
    good.become_latest(in_tmp / "outputs")
    assert (in_tmp / "outputs" / "latest").resolve() == good.path


@pytest.mark.parametrize("kind", ["empty folder", "copy of a run", "link", "file"])
def test_what_stands_in_place_of_the_link_is_replaced_or_named(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, latest = RunDirectory(tmp_path / "run"), tmp_path / "latest"
    run.path.mkdir()
    run.config.touch()
    if kind == "link":
        latest.symlink_to("gone")
    elif kind == "file":
        latest.write_text("run0")
    else:
        latest.mkdir()
    if kind == "copy of a run":
        (latest / "config.yaml").touch()
    run.become_latest(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "run"]
    stays = kind in ("empty folder", "copy of a run")
    assert [record.getMessage() for record in caplog.records] == stays * [
        f"{latest} is a folder, not a link to the newest run: rename it to get the link again"
    ]
    assert (latest.resolve() == run.path.resolve()) is not stays


def test_a_wrong_run_is_answered_with_those_that_have_a_model(in_tmp: Path) -> None:
    for number, status in enumerate(("finished", "failed", "interrupted", "finished")):
        run = RunDirectory(in_tmp / "outputs" / "day" / f"run{number}")
        run.checkpoints.mkdir(parents=True)
        run.config.touch()
        run.write_result(RunResult(status=status))
        if status != "interrupted":
            run.best.touch()
    RunDirectory(in_tmp / "outputs" / "day" / "run0").become_latest(Path("outputs"))
    with pytest.raises(UserError) as raised:
        RunDirectory.of("outputs/lates")
    assert str(raised.value).endswith("; the newest runs with a model are: outputs/latest, outputs/day/run3")


def test_only_the_run_directory_builds_the_paths_of_its_files() -> None:
    run = RunDirectory(Path("run"))
    properties = (name for name, value in vars(RunDirectory).items() if isinstance(value, property))
    names = {value.name for value in (getattr(run, name) for name in properties) if isinstance(value, Path)} - {"run"}
    assert names >= {"config.yaml", "report.html", "checkpoints", "best.ckpt", "model.txt", "tensorboard"}
    found = {
        (file.name, part)
        for folder in (SOURCE, SOURCE.parents[1] / "benchmarks")
        for file in folder.rglob("*.py")
        if file.name not in ("directory.py", "finished_backup.py")  # a backup has the layout of a run
        for part in written_parts(file)
        if part.split("/")[0] in names
    }
    assert found == {
        ("weights.py", "checkpoints"),  # the folder of torch.hub
        ("csv_rows.py", "metrics.csv"),  # in the folder `csv`
        ("inputs.py", "embeddings"),  # in the output directory, for a network without a run
    }


def written_parts(file: Path) -> Iterator[str]:
    """Yield the texts that a module appends to a path: `path / "name"`, `Path(path, "name")`, `run.find("name")`."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        parts: list[ast.expr] = []
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            parts = [node.right]
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            parts = node.args if called in ("Path", "find", "joinpath", "with_name") else []
        yield from (part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("runs/one/checkpoints/best.ckpt", "it is inside the run runs/one; give that directory"),
        ("runs/one/checkpoints", "it is inside the run runs/one; give that directory"),
        ("latest/result.json", "it is inside the run latest; give that directory"),
        ("gone", "it is a link to {here}/deleted, which does not exist"),
        ("deleted", "it does not exist"),
        ("runs", "it has no config.yaml"),
    ],
)
def test_a_path_that_is_no_run_is_refused_with_the_reason(given: str, reason: str, in_tmp: Path) -> None:
    run = RunDirectory(in_tmp / "runs" / "one")
    run.checkpoints.mkdir(parents=True)
    for file in (run.config, run.result, run.best):
        file.touch()
    Path("latest").symlink_to("runs/one")
    Path("gone").symlink_to("deleted")
    with pytest.raises(UserError) as raised:
        RunDirectory.of(given)
    assert str(raised.value) == f"{given} is not a run directory: {reason.format(here=Path.cwd())}"
