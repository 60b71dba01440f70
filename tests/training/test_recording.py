"""Seconds of the phases of a run, over all processes that worked on it."""

import time

import pytest

from opsin.runs.result import RunResult
from opsin.training.recording import PhaseTimer


def test_seconds_are_summed_over_processes() -> None:
    result = RunResult(seconds={"setup": 1.0, "fit": 10.0, "test": 0.5, "total": 11.5})
    with PhaseTimer(result) as timer:
        time.sleep(0.02)
        timer.enter("fit")
    seconds = result.seconds
    assert 1.02 <= seconds["setup"] < 2
    assert 10 <= seconds["fit"] < 11
    assert seconds["test"] == 0.5
    assert seconds["total"] == pytest.approx(sum(seconds[phase] for phase in ("setup", "fit", "test")), abs=0.01)


def test_an_interrupted_phase_counts() -> None:
    result = RunResult()
    timer = PhaseTimer(result)
    timer.enter("fit")
    time.sleep(0.02)
    timer.__exit__(RuntimeError, None, None)
    assert result.seconds["fit"] >= 0.02
    assert list(result.seconds)[-1] == "total"
