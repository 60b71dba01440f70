"""Memory that a process may still use."""

from pathlib import Path

import pytest

from opsin.data import available_memory as module


def test_the_limit_of_a_container_bounds_available_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CGROUP", tmp_path)
    whole = module.available_memory()
    assert whole > 2**20
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert module.available_memory() == 2000
    (tmp_path / "memory.max").write_text("max\n")
    assert module.available_memory() > 2**20
