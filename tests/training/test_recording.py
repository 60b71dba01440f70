"""Seconds over all processes of a run, and what a run that goes on forgets."""

import json
import time
from pathlib import Path

import pytest

from opsin.runs.directory import RunDirectory
from opsin.training.recording import OUTCOME, PhaseTimer


def test_seconds_add_up_over_processes() -> None:
    record = {"seconds": {"setup": 1.0, "fit": 10.0, "test": 0.5, "total": 11.5}}
    with PhaseTimer(record) as clock:
        time.sleep(0.02)
        clock.enter("fit")
    seconds = record["seconds"]
    assert 1.02 <= seconds["setup"] < 2
    assert 10 <= seconds["fit"] < 11
    assert seconds["test"] == 0.5
    assert seconds["total"] == pytest.approx(sum(seconds[part] for part in ("setup", "fit", "test")), abs=0.01)


def test_an_interrupted_part_counts() -> None:
    record: dict = {}
    clock = PhaseTimer(record)
    clock.enter("fit")
    time.sleep(0.02)
    clock.__exit__(RuntimeError, None, None)
    assert record["seconds"]["fit"] >= 0.02
    assert list(record["seconds"])[-1] == "total"


def test_a_run_that_goes_on_forgets_what_came_out(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.write_result(
        {"status": "failed", "error": "x", "metrics": {"test/acc": 1.0}, "epochs": 3, "data": {"name": "d"}}
    )
    with run.record(True, forget=OUTCOME):
        assert json.loads(run.result.read_text()) == {"status": "interrupted", "data": {"name": "d"}}
