"""The threads of jobs on this machine."""

import pytest

from opsin.sweeps.launchers import local
from opsin.sweeps.launchers.local import Local


@pytest.mark.parametrize(
    ("own", "options", "slots", "threads"),
    [
        (None, {}, 8, 1),
        (None, {"jobs": 2}, 2, 4),
        (None, {"threads": 4}, 2, 4),
        ("1", {}, 8, 1),
        ("4", {}, 2, 4),
        ("3", {"jobs": 5}, 5, 3),
        ("3", {"jobs": 5, "threads": 1}, 5, 1),
        ("16", {}, 1, 16),
    ],
)
def test_the_thread_count_of_the_user_is_kept(
    own: str | None, options: dict[str, int], slots: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "available_cores", lambda: 8)
    monkeypatch.setattr(local, "visible_gpus", list)
    if own is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", own)
    launcher = Local(**options)  # type: ignore[arg-type]
    assert (launcher.slots, launcher.threads) == (slots, threads)
