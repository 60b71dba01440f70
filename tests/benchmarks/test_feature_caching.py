"""The gain of the feature cache from measured runs, and the result of a measurement that failed."""

import json
from pathlib import Path

import pytest

from benchmarks import main as benchmark
from benchmarks.feature_caching import CACHED, feature_cache
from benchmarks.goals import at_least
from benchmarks.session import Measurement, Session

SIZES = ((100, 10, 10), (200, 20, 20))


def session(monkeypatch: pytest.MonkeyPatch, replies: list[dict]) -> Session:
    """Return a session in which each measured contender gives the same replies, one per run."""

    def measure(self, workload):
        found = {name: Measurement() for name in workload.contenders}
        for measurement in found.values():
            for reply in replies:
                scaled = reply if "error" in reply else reply | {"seconds": reply["seconds"] * workload.counts[0]}
                measurement.add(scaled, workload.epochs)
        return found, self.data_dir, True

    monkeypatch.setattr(Session, "measure", measure)
    return Session(Path("data"), Path("folder"))


def runs(*seconds: float) -> list[dict]:
    return [{"images": 100, "seconds": value, "peak_mb": None} for value in seconds]


@pytest.mark.parametrize(
    ("seconds", "expected"), [((1.0, 2.0), 1.5), ((1.0, 5.0, 2.0), 2.0), ((4.0, 1.0, 2.0, 3.0), 2.5)]
)
def test_the_seconds_per_image_are_those_of_the_median_run(monkeypatch, seconds, expected):
    figures, goals = feature_cache(session(monkeypatch, runs(*seconds)), SIZES)
    assert not figures.pop("errors")
    assert {slope["seconds"] for slopes in figures.values() for slope in slopes.values()} == {
        (100 * expected, 200 * expected)
    }
    assert len(goals) == len(CACHED)


def test_the_reason_of_a_failure_is_kept(monkeypatch):
    figures, goals = feature_cache(session(monkeypatch, [{"error": "UserError: no such file"}]), SIZES)
    assert any("opsin" in reason and "UserError: no such file" in reason for reason in figures["errors"])
    assert {goal.status for goal in goals} == {"not measured"}


@pytest.mark.parametrize(
    ("figures", "code"),
    [({"error": "it broke"}, 1), ({"errors": ["it broke"]}, 1), ({"errors": []}, 0), ({"megabytes": 3}, 0)],
)
def test_a_failed_extra_measurement_is_named_and_fails_the_command(monkeypatch, tmp_path, capsys, figures, code):
    monkeypatch.setattr(benchmark, "decoding", lambda _: (figures, [at_least("decoding", None, 1.0)]))
    monkeypatch.setattr(benchmark, "_environment_facts", dict)
    assert benchmark.main(["--only", "decoding", "--json", str(tmp_path / "all.json")]) == code
    assert ("decoding failed: it broke" in capsys.readouterr().err) is bool(code)
    assert json.loads((tmp_path / "all.json").read_text())["extras"]["decoding"] == figures
