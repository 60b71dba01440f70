"""`result.json` is read back as it was written, and any other content gives one clear error."""

import json
from pathlib import Path

import pytest

from opsin.errors import UserError
from opsin.runs.metric_registry import Metric
from opsin.runs.result import (
    SCHEMA_VERSION,
    BatchSizeResult,
    DataFacts,
    FrozenStages,
    Hardware,
    MonitoredMetric,
    NetworkSummary,
    ParameterCounts,
    PhaseCounts,
    RunResult,
    Settings,
    StageSummary,
    read_result,
    write_result,
)

WHOLE = RunResult(
    status="finished",
    metrics={"test/acc": 0.5, "val/loss": float("nan")},
    best_epoch=2,
    epochs=3,
    stopped="why",
    monitor=MonitoredMetric("val/loss", 0.1),
    custom_metrics=(Metric("regret", "regret", higher_is_better=False, splits=("val",)),),
    warnings=["a class has no images"],
    throughput=12.5,
    seconds={"total": 1.0},
    parameters=ParameterCounts(3, 2, 1, (PhaseCounts(0, ("stem",), 0.1, 2, 1),)),
    frozen=FrozenStages(("stem",), True),
    weights="random",
    choices={"model": "mlp", "debug": None},
    seed=0,
    settings=Settings(accelerator="cpu", max_epochs=3),
    batch_size_auto=BatchSizeResult(32, 64, 0.1, 0.05, "linear", {16: 100.5, 32: True}),
    data=DataFacts(name="pets", image_size=(8, 9), classes=("cat", "dog"), class_counts={"val": [1, 2]}),
    network=NetworkSummary("mlp", (1, 8, 9), (StageSummary("head", (2,), 3, 2, 1, None),)),
    hardware=Hardware(cpu="a cpu", gpus=("a gpu",)),
    versions={"opsin": "1"},
    commit="abc",
)


def test_a_result_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    write_result(file, WHOLE)
    assert str(read_result(file)) == str(WHOLE)  # nan is not equal to itself
    assert json.loads(file.read_text())["schema_version"] == SCHEMA_VERSION


def test_empty_fields_are_not_written(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    write_result(file, RunResult(seed=0, monitor=MonitoredMetric("val/loss")))
    written = json.loads(file.read_text())
    assert sorted(written) == ["monitor", "pruned", "schema_version", "seed", "status"]
    assert read_result(file) == RunResult(seed=0, monitor=MonitoredMetric("val/loss"))


def test_without_a_result_file_the_status_is_not_started(tmp_path: Path) -> None:
    assert read_result(tmp_path / "result.json") == RunResult(status="not started")


def test_a_resumed_run_keeps_provenance_and_drops_the_outcome() -> None:
    left = WHOLE.without_outcome()
    assert (left.metrics, left.best_epoch, left.stopped, left.monitor) == ({}, None, None, None)
    kept = ("data", "weights", "seconds", "warnings")
    assert all(getattr(left, name) == getattr(WHOLE, name) for name in kept)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b'"text"',
        b'{"schema_version": 1, "status": ',
        b"\xff\xfe",
        b'{"schema_version": 1, "status": "done"}',
        b'{"schema_version": 1, "metrics": null}',
        b'{"schema_version": 1, "data": [1]}',
        b'{"schema_version": 1, "frozen": {"stages": [3]}}',
        b'{"schema_version": 1, "custom_metrics": [{"name": "top5"}]}',
        b'{"schema_version": 1, "custom_metrics": [{"name": 3, "title": "a", "higher_is_better": true}]}',
    ],
)
def test_a_damaged_result_gives_one_clear_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "result.json"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"result\.json is damaged \(.+\): replace it with an intact copy"):
        read_result(file)


@pytest.mark.parametrize(
    ("content", "writer"),
    [
        ({"status": "finished", "versions": {"opsin": "0.1.0"}}, "Opsin 0.1.0 with no schema version"),
        ({}, "another version of Opsin with no schema version"),
        ({"schema_version": 99, "versions": {"opsin": "9.9"}}, "Opsin 9.9 with schema version 99"),
    ],
)
def test_a_result_of_another_version_is_refused_by_name(tmp_path: Path, content: dict, writer: str) -> None:
    file = tmp_path / "result.json"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"was written by {writer} .* reads schema version {SCHEMA_VERSION}"):
        read_result(file)


def test_undefined_metrics_are_null_in_the_file_and_absent_after_reading(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    result = RunResult(status="finished", metrics={"val/acc": 1.0}, undefined_metrics=("val/auroc",))
    write_result(file, result)
    assert json.loads(file.read_text(encoding="utf-8"))["metrics"] == {"val/acc": 1.0, "val/auroc": None}
    assert read_result(file) == result
    assert read_result(file).without_outcome().undefined_metrics == ()
