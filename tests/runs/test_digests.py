"""Digests of a run's files: edits and missing files are distinguished, and no file outside the run is read."""

import json
from pathlib import Path

import pytest
from inodes import report_no_inodes

from opsin.errors import UserError
from opsin.runs import digests
from opsin.runs.digests import (
    COVERED,
    DIGESTS,
    RunDigests,
    changed_files,
    is_as_recorded,
    read_digests,
    record_digests,
    record_evaluation,
)
from opsin.runs.finished_backup import KEPT


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A directory with files of a run, two of which are one file."""
    (tmp_path / "checkpoints" / "replay").mkdir(parents=True)
    (tmp_path / "checkpoints" / "best.ckpt").write_bytes(b"weights")
    (tmp_path / "checkpoints" / "replay" / "00000005.ckpt").hardlink_to(tmp_path / "checkpoints" / "best.ckpt")
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    (tmp_path / "report.html").write_text("page")
    return tmp_path


def test_all_files_of_a_finished_run_are_covered_unless_commands_write_them_again() -> None:
    assert set(COVERED) == set(KEPT) - {"report.html", "pictures", DIGESTS} | {"overrides.yaml"}


def test_edited_and_missing_files_are_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[object] = []
    digest_of = digests.digest_of
    monkeypatch.setattr(digests, "digest_of", lambda content: read.append(content) or digest_of(content))
    record_digests(run, {"result.json": b"{}"})
    assert len(read) == 3  # a hard link is not read again
    (run / "result.json").write_bytes(b"{}")
    recorded = read_digests(run)
    assert recorded is not None
    names = {"checkpoints/best.ckpt", "checkpoints/replay/00000005.ckpt", "config.yaml", "result.json"}
    assert set(recorded.files) == names
    assert changed_files(run, recorded) == {}
    (run / "config.yaml").write_text("seed: 2\n")
    (run / "checkpoints" / "best.ckpt").unlink()
    (run / "report.html").write_text("another page")
    assert changed_files(run, recorded) == {"config.yaml": "changed", "checkpoints/best.ckpt": "missing"}


def test_a_file_that_cannot_be_read_is_neither_changed_nor_an_error(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = f"predictions/{'a' * 5000}"
    record_digests(run)
    recorded = read_digests(run)
    assert recorded is not None
    assert changed_files(run, RunDigests({long: "", "config.yaml": ""})) == {
        long: "unreadable",
        "config.yaml": "changed",
    }

    def refuse(content: Path) -> str:
        raise PermissionError(13, "Permission denied", str(content))

    monkeypatch.setattr("opsin.runs.digests.digest_of", refuse)
    assert set(changed_files(run, recorded).values()) == {"unreadable"}


def test_without_inodes_files_have_their_own_digests(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report_no_inodes(monkeypatch)
    record_digests(run)
    (run / "config.yaml").write_text("seed: 2\n")
    recorded = read_digests(run)
    assert recorded is not None
    assert changed_files(run, recorded) == {"config.yaml": "changed"}


def test_a_later_evaluation_is_recorded(run: Path) -> None:
    file = run / "predictions" / "val.npz"
    file.parent.mkdir()
    record_evaluation(run, "val", file)
    assert read_digests(run) is None  # the run has not finished
    record_digests(run)
    file.write_bytes(b"predictions")
    assert not is_as_recorded(run, file)
    record_evaluation(run, "val", file)
    assert is_as_recorded(run, file)
    recorded = read_digests(run)
    assert recorded is not None
    assert recorded.evaluated == ("val",)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "null", "[" * 100_000, '{"files": []}', '{"files": {}}', "\udcff"]
    + [json.dumps({"files": {name: "0"}, "evaluated": []}) for name in ("/etc/passwd", "checkpoints/../../x", "x")],
)
def test_damaged_digests_are_refused(run: Path, content: str) -> None:
    (run / DIGESTS).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"digests\.json is damaged"):
        read_digests(run)
