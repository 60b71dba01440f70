"""Locks of stores and sweeps on a disk without locks: one message."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from lock_file import ROOT

from opsin.data.cache.files import build_lock
from opsin.errors import UserError
from opsin.runs.disk_errors import NO_LOCKS, explained_disk_errors
from opsin.runs.disk_lock import DiskLock
from opsin.sweeps.settings import Sweep
from opsin.sweeps.sweep_directory import sweep_directory
from opsin.sweeps.workers import Worker

OTHERS = {"runs/disk_lock.py", "runs/directory.py", "runs/machine_cache.py", "data/file_contents.py"}
"""Modules with locks of their own: those without which they go on."""

PLACES: dict[str, Callable[[Path], object]] = {
    "store": lambda folder: build_lock(folder / "store", "decodes").__enter__(),
    "sweep": lambda folder: sweep_directory(folder, "grid", Sweep(), ["seed=1,2"], ["val/loss"], {}),
    "worker": Worker,
    "lock": lambda folder: DiskLock(folder / ".lock").__enter__(),
}


@pytest.mark.parametrize("number", sorted(set(NO_LOCKS)))
@pytest.mark.parametrize("place", PLACES)
def test_a_disk_without_locks_gives_one_message(
    place: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    message = rf"{tmp_path}/.* cannot be locked, because its disk does not support file locks\. Set output_dir"
    with pytest.raises(UserError, match=message), explained_disk_errors():
        PLACES[place](tmp_path)


def test_another_failure_of_a_lock_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(OSError, match="Input/output"):
        DiskLock(tmp_path / "lock").acquire()


def test_all_other_modules_use_this_lock() -> None:
    package = ROOT / "src" / "opsin"
    found = {str(file.relative_to(package)) for file in package.rglob("*.py") if "import FileLock" in file.read_text()}
    assert found == OTHERS
