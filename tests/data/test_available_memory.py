"""Memory that a process may still use."""

from pathlib import Path

import pytest

from opsin.data.available_memory import available_memory, cgroup_memory

NO_LIMIT = float("inf")


def allowed(folder: Path, groups: dict[str, tuple[str, str, str]], member: str = "0::/\n") -> float:
    """Return what `cgroup_memory` finds in groups with these contents of memory.max, memory.current and memory.stat."""
    for name, texts in groups.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for file, text in zip(("max", "current", "stat"), texts, strict=True):
            (folder / name / f"memory.{file}").write_text(text)
    (folder / "membership").write_text(member)
    return cgroup_memory(folder, folder / "membership")


@pytest.mark.parametrize(
    ("group", "free"),
    [
        (("3000\n", "1000\n", ""), 2000),
        (("max\n", "1000\n", ""), NO_LIMIT),
        # cached files are dropped when memory is needed; files in memory (shmem) are not
        (("3000\n", "2900\n", "anon 400\nfile 2500\nshmem 100\ninactive_file 1500\nactive_file 900\n"), 2500),
        (("3000\n", "1000\n", "inactive_file 1500\nactive_file 900\n"), 3000),  # read at two moments
        (("3000\n", "1000\n", "a line of another form\n"), 2000),
        (("1000\n", "3000\n", ""), 0),
        (("nonsense", "1000\n", ""), NO_LIMIT),
    ],
)
def test_the_limit_of_a_container_bounds_the_memory(group: tuple[str, str, str], free: float, tmp_path: Path) -> None:
    assert allowed(tmp_path, {".": group}) == free


def test_the_memory_is_the_least_that_the_own_groups_allow(tmp_path: Path) -> None:
    groups = {
        "job": ("5000", "4000", "inactive_file 500\nactive_file 0"),  # 1500
        "job/step": ("4000", "1000", ""),  # 3000
        "job/step/task": ("max", "1000", ""),
        "other": ("10", "10", ""),
    }
    assert allowed(tmp_path, groups, "0::/job/step/task\n") == 1500
    assert allowed(tmp_path, {"job/step": ("2000", "1000", "")}, "0::/job/step\n") == 1000
    assert allowed(tmp_path, {}, "0::/\n") == NO_LIMIT


def test_the_limit_of_a_container_bounds_available_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert available_memory() > 2**20
    monkeypatch.setattr("opsin.data.available_memory.cgroup_memory", lambda: 2000.0)
    assert available_memory() == 2000
