"""A filesystem without inodes, such as some network folders: every file has inode 0."""

import os
from typing import Any

import pytest


def report_no_inodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Report inode 0 for every file, until the end of the test."""
    stat = os.stat

    def without_inode(*arguments: Any, **options: Any) -> os.stat_result:
        values, more = stat(*arguments, **options).__reduce__()[1]
        return os.stat_result((values[0], 0, *values[2:]), more)

    monkeypatch.setattr(os, "stat", without_inode)
