"""The backup of a finished run: a resume that is killed at any moment restores the newest finished state, or none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opsin.runs import finished_backup
from opsin.runs.atomic import write_atomically
from opsin.runs.digests import DIGESTS, read_digests
from opsin.runs.directory import RunDirectory


class Killed(BaseException):
    """The process ends at this moment."""


def finish(run: RunDirectory, text: str, error: BaseException | None = None) -> None:
    """Train and finish the run, with a text as its metrics, or raise an error at the end."""
    with run.recorded(True) as result:
        write_atomically(run.metrics, text)
        result.epochs = len(text)
        if error:
            raise error


def fail(run: RunDirectory) -> None:
    with pytest.raises(RuntimeError):
        finish(run, "failed", RuntimeError("a resume fails"))


def kill_in(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, number: int, act: Callable[[], object]) -> None:
    """Run `act`, and let the process end at the call `number` of a function."""
    original, calls = getattr(owner, name), []

    def function(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) > number:
            raise Killed
        return original(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, function)
        with pytest.raises(Killed):
            act()
    assert len(calls) > number


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    run.config.write_text("seed: 1\n")
    finish(run, "a")
    return run


@pytest.mark.parametrize("recorded", [False, True])
def test_a_kill_before_the_backup_is_removed_restores_no_older_run(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, recorded: bool
) -> None:
    kill_in(monkeypatch, finished_backup.shutil, "rmtree", 1, lambda: finish(run, "bb"))
    assert run.read_result().status == "finished"
    assert (run.path / ".finished").is_dir()
    if recorded:
        run.record_failure("a node was lost")
    else:
        fail(run)
    assert run.metrics.read_text() == "bb"
    assert run.read_result().epochs == 2
    assert recorded or read_digests(run.path)


@pytest.mark.parametrize("number", range(4))
def test_a_kill_while_the_backup_is_made_keeps_the_run(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    kill_in(monkeypatch, finished_backup, "_copy", number, lambda: finish(run, "bb"))
    finish(run, "ccc")
    fail(run)
    assert run.metrics.read_text() == "ccc"
    assert run.read_result().status == "finished"
    assert read_digests(run.path)


def test_a_kill_before_a_resume_is_recorded_keeps_the_digests(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_in(monkeypatch, RunDirectory, "write_result", 0, lambda: finish(run, "bb"))
    assert run.read_result().status == "finished"
    assert (run.path / DIGESTS).is_file()
    fail(run)
    assert read_digests(run.path)


def test_a_killed_resume_that_fails_later_restores_the_finished_run(run: RunDirectory) -> None:
    with pytest.raises(Killed):
        finish(run, "attempt", Killed())
    assert run.read_result().status == "interrupted"
    fail(run)
    assert run.metrics.read_text() == "a"
    assert run.read_result().status == "finished"
    assert not (run.path / ".finished").exists()


@pytest.mark.parametrize(
    ("name", "number"), [*(("_copy", i) for i in range(1, 11)), *(("link_atomically", i) for i in range(4))]
)
def test_a_kill_while_the_finished_run_is_restored_loses_none_of_its_files(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    finish(run, "a")
    with pytest.raises(Killed):
        finish(run, "attempt", Killed())
    kill_in(monkeypatch, finished_backup, name, number, lambda: fail(run))
    assert run.config.is_file()
    before = {path.name for path in run.path.iterdir()}
    fail(run)
    assert {path.name for path in run.path.iterdir()} <= before - {".finished"} | {
        "failed_resume",
        "error.txt",
        DIGESTS,
    }
    assert run.metrics.read_text() == "a"
    assert run.config.read_text() == "seed: 1\n"
    assert run.read_result().status == "finished"
    assert read_digests(run.path)
