"""What memory there is."""

import mmap
from pathlib import Path

import pytest

from opsin.training.tuning import memory


def test_what_is_used_grows_with_what_is_allocated() -> None:
    before = memory.used_memory()
    with mmap.mmap(-1, 2**28) as block:  # not from malloc, which may hold as much that earlier tests gave back
        for start in range(0, len(block), mmap.PAGESIZE):
            block[start] = 1
        assert memory.used_memory() - before > 0.5 * len(block)


def test_a_container_bounds_what_is_available(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    whole = memory.available_memory()
    assert whole > 2**20
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert memory.available_memory() == 2000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_memory() > 2**20
