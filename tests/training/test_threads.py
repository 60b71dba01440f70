"""The number of CPU threads."""

import pytest
import torch

from opsin.training.threads import use_threads


@pytest.mark.parametrize(
    ("own", "cores", "threads", "processes", "expected"),
    [
        (None, 4, "auto", 1, 4),
        (None, 3, "auto", 1, 3),  # a container grants fewer cores than the machine has
        (None, 16, "auto", 1, 8),  # torch's choice, one per physical core
        (None, 4, "auto", 2, 2),
        (None, 2, "auto", 4, 1),
        (None, 4, 6, 2, 6),
        ("5", 4, "auto", 1, 8),  # torch has read the variable of the user
        ("5", 4, 2, 1, 2),
    ],
)
def test_the_number_of_threads_follows_from_the_cores(
    own: str | None, cores: int, threads: object, processes: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {"threads": 8}
    monkeypatch.setattr(torch, "get_num_threads", lambda: state["threads"])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: state.update(threads=count))
    monkeypatch.setattr("opsin.training.threads.available_cores", lambda: cores)
    if own is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", own)
    for _ in range(2):
        use_threads(threads, processes)  # type: ignore[arg-type]
        assert state["threads"] == expected
