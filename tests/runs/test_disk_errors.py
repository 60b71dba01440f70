"""Full, read-only and forbidden disks: one message with the file, the disk and a correction."""

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from disks import Disk, mounted
from ordinary_user import forbid_search

from opsin.commands import dispatch
from opsin.errors import UserError
from opsin.runs.atomic import atomic_folder, atomic_open, check_writable, write_atomically, write_errors
from opsin.runs.disk_errors import explained_disk_errors, explanation, mount_point


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with mounted(tmp_path / "disk", megabytes=1) as disk:
        yield disk


def _save_as_torch(file: Path) -> None:
    """Write a file as `torch.save` does, which raises an error of its own while it handles that of the disk."""
    with atomic_open(file) as stream:
        try:
            stream.write(bytes(2_000_000))
        finally:
            raise RuntimeError("unexpected pos 704 vs 598")


def test_a_full_disk_is_named_and_no_partial_file_is_left(disk: Disk) -> None:
    file = disk.path / "table.csv"
    write_atomically(file, "old")
    disk.fill()
    message = rf"cannot write {file}: the disk {disk.path} has too little free space \(0\.0 of 1\.0 MB\)\. .*, then eat"
    with pytest.raises(UserError, match=message), explained_disk_errors("eat"):
        write_atomically(file, "new" * 10_000)
    with pytest.raises(UserError, match=f"cannot write {file}"), explained_disk_errors():
        _save_as_torch(file)
    with pytest.raises(UserError, match=r"cannot write .* free space .* set --out"), write_errors(file, "--out"):
        write_atomically(file, "new" * 10_000)
    with pytest.raises(OSError, match="No space"), atomic_folder(disk.path / "store") as folder:
        (folder / "pixels").write_bytes(bytes(2_000_000))
    assert sorted(path.name for path in disk.path.iterdir()) == ["filler", "table.csv"]
    assert file.read_text() == "old"
    disk.free()
    write_atomically(file, "new")
    assert file.read_text() == "new"


def test_an_error_without_a_path_names_the_full_or_read_only_disk(disk: Disk) -> None:
    unnamed = OSError(errno.ENOSPC, "No space left on device")
    disk.fill()
    assert f"cannot write {disk.path / 'run'}: the disk {disk.path} " in str(
        explanation(unnamed, "", disk.path / "run")
    )
    disk.free()
    disk.protect()
    unnamed = OSError(errno.EROFS, "Read-only file system")
    assert f"cannot write {disk.path}: the disk {disk.path} is read-only" in str(explanation(unnamed, "", disk.path))
    with pytest.raises(UserError, match=f"--out=.*new: {disk.path} cannot be written to: the disk {disk.path} is read"):
        check_writable(disk.path / "new", "--out")
    assert mount_point(disk.path / "a" / "b") == disk.path


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EACCES, r"cannot write .*file: permission denied\. Write to another folder"),
        (errno.EDQUOT, r"cannot write .*file: your quota on the disk / is used up\. Free some space there"),
        (errno.EIO, r"cannot read or write .*file: the disk / has failed \(.*error\)\. Check the disk"),
        (errno.ESTALE, r"cannot read or write .*file: the disk / has failed"),
    ],
)
def test_other_disk_errors_are_explained(number: int, message: str) -> None:
    with pytest.raises(UserError, match=message), explained_disk_errors():
        raise OSError(number, os.strerror(number), "/none/file")


def test_folders_for_temporary_files_are_explained() -> None:
    unusable = FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/full']")
    assert "found in ['/full']: set TMPDIR to a folder that can be" in str(explanation(unusable))
    assert "is too long for the name of a socket" in str(explanation(OSError("AF_UNIX path too long")))


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "{long}"],
        ["compare", "{long}"],
        ["train", "{long}"],
        ["train", "datamodule=image_folder", "datamodule.path={long}"],
        ["train", "--config-dir", "{long}"],
        ["explore", "--outputs", "{long}"],
        ["new", "{long}"],
    ],
    ids=" ".join,
)
def test_a_word_that_is_too_long_for_a_name_is_one_message(
    words: list[str], in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dispatch.main([word.format(long="word" * 75) for word in words]) == 1
    error = capsys.readouterr().err
    assert re.fullmatch(
        r"\S*wordword\S*\.\.\.: the name of this file or folder is too long .*: use a shorter one\n", error
    )


def test_errors_unrelated_to_the_disk_are_not_changed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), explained_disk_errors():
        (tmp_path / "none").read_text()
    with pytest.raises(BrokenPipeError), explained_disk_errors():
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")
    with pytest.raises(PermissionError), explained_disk_errors():  # of a process, not of a file
        raise PermissionError(errno.EPERM, "Operation not permitted")


def test_a_folder_that_may_not_be_searched_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "private" / "run"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    forbid_search(run.parent, monkeypatch)
    for words in (["evaluate", str(run)], ["compare", str(run)], ["report", str(run)]):
        assert dispatch.main(words) == 1
        message = capsys.readouterr().err
        assert f"cannot read {run}" in message, message
        assert "permission denied. Ask its owner for the permission" in message
    with pytest.raises(UserError, match=f"--out=.*: {run.parent} cannot be written to; set --out to"):
        check_writable(run, "--out")
    with pytest.raises(UserError, match=r"run \(permission denied\); set --out"), write_errors(run, "--out"):
        run.stat()
    assert mount_point(run) == mount_point(tmp_path)
