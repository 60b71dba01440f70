"""Measurements of a machine are made once, and damaged or unwritable cache files cause no error."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from opsin.runs.machine_cache import machine_folder, measured_once

FACTS = {"processor": "a", "threads": 2, "shape": [1, 2]}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def other() -> float:
    return 9.0


def test_a_value_is_measured_once_for_its_facts() -> None:
    assert measured_once("speed", FACTS, lambda: 1.5) == 1.5
    assert measured_once("speed", {**FACTS, "shape": [1, 2]}, other) == 1.5
    assert measured_once("speed", {**FACTS, "threads": 1}, other) == 9.0
    assert measured_once("memory", FACTS, other) == 9.0


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"value": "x", "facts": {}}', '{"value": NaN}', "\udcff"])
def test_a_damaged_file_is_measured_again(text: str) -> None:
    measured_once("speed", FACTS, lambda: 1.5)
    (file,) = machine_folder().glob("speed-*.json")
    file.write_bytes(text.encode(errors="surrogateescape"))
    assert measured_once("speed", FACTS, other) == 9.0
    assert json.loads(file.read_text()) == {"value": 9.0, "facts": FACTS}


def test_a_value_that_is_not_finite_is_not_saved() -> None:
    assert measured_once("speed", FACTS, lambda: float("inf")) == float("inf")
    assert measured_once("speed", FACTS, other) == 9.0


def test_a_folder_that_cannot_be_written_to_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert measured_once("speed", FACTS, other) == 9.0


def test_only_one_of_several_threads_measures() -> None:
    calls, ready = [], threading.Barrier(4)

    def measure() -> float:
        calls.append(1)
        time.sleep(0.05)
        return float(len(calls))

    def run(_: int) -> float:
        ready.wait()
        return measured_once("speed", FACTS, measure)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run, range(4))) == [1.0] * 4
