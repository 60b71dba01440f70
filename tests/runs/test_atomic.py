"""Atomic writes: the old or the new file is complete after any failure and with concurrent writers."""

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from opsin.errors import UserError
from opsin.runs.atomic import (
    atomic_folder,
    atomic_open,
    atomic_path,
    check_writable,
    flush,
    link_atomically,
    write_atomically,
    write_errors,
)

NAMES = ["result.json", "ä" * 120, "x" * 255, "no suffix", ".hidden"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("content", ["text \u2713\n", b"\0bytes"])
def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path, name: str, content: str | bytes) -> None:
    file = tmp_path / "new" / "folder" / name
    write_atomically(file, "old")
    write_atomically(file, content)
    assert file.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert [path.name for path in file.parent.iterdir()] == [name]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_a_failed_write_keeps_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    file = tmp_path / "file"
    write_atomically(file, "old")

    def fail_while_writing() -> None:
        with atomic_open(file, "w") as stream:
            stream.write("half of the new")
            stream.flush()
            raise error

    def fail_before_the_rename() -> None:
        with atomic_path(file) as temporary:
            temporary.write_text("half")
            raise error

    for fail in (fail_while_writing, fail_before_the_rename):
        with pytest.raises(error):
            fail()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]


def test_the_new_file_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, events = tmp_path / "file", []
    fsync, replace = os.fsync, Path.replace

    def record_fsync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        events.append("folder" if is_folder else f"file of {os.fstat(descriptor).st_size}")
        fsync(descriptor)

    def record_replace(self: Path, target: Path) -> Path:
        events.append("rename")
        assert self.parent == target.parent
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "replace", record_replace)
    write_atomically(file, "four")
    assert events == ["file of 4", "rename", "folder"]


def test_processes_that_write_one_file_do_not_mix(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from opsin.runs.atomic import atomic_open\n"
        "for _ in range(30):\n"
        "    with atomic_open(Path('file'), 'w') as stream:\n"
        "        for _ in range(50): stream.write(sys.argv[1] * 100); stream.flush()\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, letter], cwd=tmp_path) for letter in "abc"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if (tmp_path / "file").exists():
            seen.add((tmp_path / "file").read_text())
    seen.add((tmp_path / "file").read_text())
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert seen <= {letter * 5000 for letter in "abc"}
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_killed_writer_keeps_the_old_file_and_its_partial_file_is_deleted_later(tmp_path: Path) -> None:
    file = tmp_path / "best.ckpt"
    file.write_text("old")
    program = (
        "import os, signal; from pathlib import Path; from opsin.runs.atomic import atomic_open\n"
        "with atomic_open(Path('best.ckpt')) as stream:\n"
        "    stream.write(b'x' * 10**6); stream.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path)
    (rest,) = tmp_path.glob(".*.part")
    assert file.read_text() == "old"
    assert rest.stat().st_size == 10**6
    write_atomically(file, "newer")
    assert rest.exists()  # its writer may still be alive
    day_ago = time.time() - 25 * 3600
    os.utime(rest, (day_ago, day_ago))
    write_atomically(tmp_path / "other", "")
    assert rest.exists()
    write_atomically(file, "newest")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "other"]


def test_a_new_file_has_the_permissions_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_folder_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "store"

    def fail() -> None:
        with atomic_folder(folder) as unfinished:
            (unfinished / "file").write_text("one")
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        fail()
    assert list(tmp_path.iterdir()) == []
    for content in ("one", "two"):
        (tmp_path / "store.building").mkdir()  # left by a killed process
        (tmp_path / "store.building" / "rest").touch()
        with atomic_folder(folder) as unfinished, (unfinished / "file").open("w") as file:
            file.write(content)
            flush(file)
        assert [path.name for path in tmp_path.iterdir()] == ["store"]
        assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("file", content)]


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "deep", "output_dir")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"output_dir=.*deep: .*file is a file, not a folder"):
        check_writable(tmp_path / "file" / "deep", "output_dir")


def test_a_failed_write_names_the_option_and_the_reason(tmp_path: Path) -> None:
    message = r"cannot write .*out \(the disk .* has too little free space .*\); set --out to another path"
    with pytest.raises(UserError, match=message), write_errors(tmp_path / "out", "--out"):
        raise OSError(28, "No space left")
    with pytest.raises(ValueError, match="not a failed write"), write_errors(tmp_path, "--out"):
        raise ValueError("not a failed write")


def test_a_file_that_is_linked_twice_leaves_no_other_file(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("content")
    for _ in range(2):  # the second time, both names are one file already
        link_atomically(source, target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]
    assert target.read_text() == "content"
