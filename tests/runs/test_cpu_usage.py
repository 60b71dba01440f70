"""Processor time of other programs, from given counters and on this machine."""

import pytest

from opsin.runs.cpu_usage import CpuSample, busy_seconds, others_cores

STAT = """cpu  9 9 9 9 9 9 9 9 9 9
cpu0 100 20 30 999 888 4 5 41 7 7
cpu1 200 0 0 999 888 0 0 0 0 0
cpu2 5000 0 0 0 0 0 0 0 0 0
intr 1 2 3
"""


def test_busy_time_is_summed_over_the_cores_of_the_process() -> None:
    assert busy_seconds(STAT, {0}) == pytest.approx(2.0)  # user, nice, system, irq, softirq, steal
    assert busy_seconds(STAT, {0, 1}) == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("busy", "own", "load", "others"),
    [
        (20.0, 10.0, None, 1.0),
        (10.0, 10.0, None, 0.0),
        (9.0, 10.0, None, 0.0),  # the counters advance in steps
        (0.0, 10.0, None, None),  # a sandbox without counters
        (None, 10.0, 3.0, 2.0),
        (None, 10.0, 0.5, 0.0),
    ],
)
def test_cores_of_other_programs_are_the_remaining_busy_time(
    busy: float | None, own: float, load: float | None, others: float | None
) -> None:
    before = CpuSample(100.0, None if busy is None else 500.0, 50.0)
    after = CpuSample(110.0, None if busy is None else 500.0 + busy, 50.0 + own)
    assert others_cores(before, after, load) == (None if others is None else pytest.approx(others))


def test_this_machine_is_measured() -> None:
    before = CpuSample.now()
    while (after := CpuSample.now()).time - before.time < 0.1:
        sum(range(10_000))
    found = others_cores(before, after)
    assert found is None or 0 <= found < 1024
    assert others_cores(after, after) is None
