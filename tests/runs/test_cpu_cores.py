"""The cores that a process may use, and the number of threads that the user sets."""

from pathlib import Path

import pytest

from opsin.errors import UserError
from opsin.runs.cpu_cores import available_cores, cgroup_cores, own_threads


def groups(folder: Path, quotas: dict[str, str], member: str) -> int | None:
    for name, text in quotas.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "cpu.max").write_text(text)
    (folder / "membership").write_text(member)
    return cgroup_cores(folder, folder / "membership")


@pytest.mark.parametrize(
    ("quotas", "member", "cores"),
    [
        ({".": "max 100000\n"}, "0::/\n", None),
        ({".": "250000 100000\n"}, "0::/\n", 2),
        ({".": "50000 100000\n"}, "0::/\n", 1),
        ({"a": "400000 100000", "a/b": "max 100000"}, "0::/a/b\n", 4),  # a quota of a parent counts
        ({"a": "400000 100000", "a/b": "300000 100000"}, "0::/a/b\n", 3),
        ({"a": "400000 100000"}, "1:cpu:/a\n", None),  # version 1
        ({".": "nonsense"}, "0::/\n", None),
        ({".": "100000 0"}, "0::/\n", None),
        ({".": "300000 100000"}, "0::/../../elsewhere\n", 3),
    ],
)
def test_the_quota_of_a_container_limits_the_cores(
    quotas: dict[str, str], member: str, cores: int | None, tmp_path: Path
) -> None:
    assert groups(tmp_path, quotas, member) == cores


def test_there_is_at_least_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    assert available_cores() >= 1
    monkeypatch.setattr("opsin.runs.cpu_cores.cgroup_cores", lambda: 1)
    assert available_cores() == 1
    assert cgroup_cores(Path("/none"), Path("/none/cgroup")) is None


@pytest.mark.parametrize(("text", "threads"), [("", None), ("3", 3), ("4,2", 4), (" 2 ", 2)])
def test_the_thread_count_of_the_user_is_read(text: str, threads: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert own_threads() == threads


@pytest.mark.parametrize("text", ["0", "-1", "many", "2.5"])
def test_wrong_threads_are_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    with pytest.raises(UserError, match=f"OMP_NUM_THREADS={text} is not a number of threads"):
        own_threads()
