"""Only regular files are read."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from opsin.errors import UserError
from opsin.evaluation.comparison.run_records import read_record
from opsin.runs.digests import read_digests
from opsin.runs.directory import RunDirectory
from opsin.runs.home import real_path
from opsin.runs.per_class import read_scores
from opsin.runs.regular_file import NotRegularError, check_regular, read_text


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (os.mkfifo, "pipe or device"),
        (Path.mkdir, "folder"),
        (lambda path: path.symlink_to("/dev/zero"), "pipe or device"),
        (lambda path: path.symlink_to(path.name), "symbolic links"),
    ],
)
def test_other_things_are_refused(tmp_path: Path, make: Callable[[Path], object], reason: str) -> None:
    make(tmp_path / "x")
    with pytest.raises(NotRegularError, match=reason):
        check_regular(tmp_path / "x")
    with pytest.raises(UserError, match="x cannot be read"):
        read_text(tmp_path / "x", "restore it")
    assert real_path(tmp_path / "x").is_absolute()


def test_files_and_links_to_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("\u00e4")
    (tmp_path / "link").symlink_to("file")
    assert read_text(tmp_path / "file", "") == read_text(tmp_path / "link", "") == "\u00e4"
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "nowhere", "")


def test_pipes_in_a_run_are_not_read(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    (tmp_path / "per_class").mkdir()
    for name in ("error.txt", "digests.json", "per_class/val.npz"):
        os.mkfifo(tmp_path / name)
    assert read_record(run).status == "no result"
    with pytest.raises(UserError, match=r"digests\.json is damaged"):
        read_digests(tmp_path)
    with pytest.raises(UserError, match=r"val\.npz is damaged"):
        read_scores(run, "val")
