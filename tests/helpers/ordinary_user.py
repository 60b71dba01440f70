"""The rights of an ordinary user for tests, because root may search every folder."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest


def forbid_search(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the system refuse each path in a folder, as if the folder may not be searched."""
    stat, lstat, access = os.stat, os.lstat, os.access

    def check(path: Any) -> None:
        if isinstance(path, str | Path) and folder in Path(path).parents:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    def checked_stat(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        check(path)
        return stat(path, *arguments, **options)

    def checked_lstat(path: Any, **options: Any) -> os.stat_result:
        check(path)
        return lstat(path, **options)

    monkeypatch.setattr(os, "stat", checked_stat)
    monkeypatch.setattr(os, "lstat", checked_lstat)
    monkeypatch.setattr(
        os,
        "access",
        lambda path, mode: Path(path) != folder and folder not in Path(path).parents and access(path, mode),
    )
