import json

from benchmarks.goals import at_least
from benchmarks.session import Measurement
from benchmarks.step_work import Peak, StepWork
from benchmarks.tables import WorkloadResult, as_json, as_markdown, rows, tables, work_rows, write_page
from benchmarks.workloads import WORKLOADS

ABOUT = {
    "hardware": {"cpu": "A CPU", "cores": 2, "memory_gib": 24.0, "gpus": []},
    "versions": {"torch": "2.14.1"},
    "commit": "abc",
    "date": "2026-11-22",
    "precision": "32",
    "bfloat16": "none",
    "seconds": 3.0,
    "rounds": 5,
    "minutes": 12.3,
    "command": "python -m benchmarks.main",
}


WORK = StepWork(flops=2e9, bytes=3e6)


def measured(*speeds, **facts):
    found = Measurement()
    for speed in speeds:
        found.add({"images": speed, "seconds": 1.0, "peak_mb": 100.0 + speed, **facts}, epochs=1)
    return found


def result():
    failed = Measurement()
    failed.add({"error": "UserError: no | such key"}, epochs=1)
    others = {"bare": measured(10, 30, 20), "common": measured(5, workers=2), "bare_same": failed}
    work = next(workload for workload in WORKLOADS if workload.name == "cats_vs_dogs")
    return WorkloadResult(work, others, real=True, work=WORK, peak=Peak(1e11, "float32", 2048))


def test_rows_contain_contender_speed_and_notes():
    bare, common, failed = rows([result()])
    assert bare[2:] == ("20.0 (10.0 to 30.0), n=3", "130 MB", "without augmentation")
    assert common[4] == "loader workers: 2"
    assert failed[2:4] == ("not run: UserError: no | such key", "?")
    assert result().medians() == {"bare": 20, "common": 5, "bare_same": None}


def test_the_seconds_of_an_even_number_of_runs_are_their_mean():
    found = Measurement()
    for seconds in (1.0, 2.0):
        found.add({"images": 10, "seconds": seconds, "peak_mb": None}, epochs=10)
    work = next(workload for workload in WORKLOADS if workload.measure == "runs")
    (row,) = rows([WorkloadResult(work, {"opsin": found}, True, WORK, Peak(1e11, "float32", 2048))])
    assert "whole run in 1.5 s" in row[4]


def test_json_contains_every_round():
    tree = json.loads(json.dumps(as_json([result()], {"startup": {}}, [at_least("x", 1.0, 2.0)], ABOUT)))
    found = tree["workloads"]["cats_vs_dogs"]["contenders"]
    assert found["bare"]["rounds"] == [10, 30, 20]
    assert found["bare"]["speed"]["median"] == 20
    assert found["bare_same"]["error"].startswith("UserError")
    assert tree["goals"][0]["status"] == "not met"


def test_tables_can_be_printed():
    from rich.console import Console

    console = Console(record=True, width=160)
    for table in tables([result()], [at_least("the ratio", 2.5, 2.0)]):
        console.print(table)
    text = console.export_text()
    assert "the ratio" in text
    assert "met" in text
    assert "20.0" in text


def test_a_page_keeps_other_text_and_one_section_per_machine(tmp_path):
    page = tmp_path / "docs" / "benchmarks.md"
    write_page(page, as_markdown([result()], [at_least("old", 1.0, 2.0)], ABOUT), ABOUT)
    page.write_text(page.read_text() + "\nWhy it is so: because.\n")
    other = ABOUT | {"hardware": ABOUT["hardware"] | {"gpus": ["NVIDIA H200"]}}
    write_page(page, as_markdown([result()], [], other), other)
    write_page(page, as_markdown([result()], [at_least("new", 3.0, 2.0)], ABOUT), ABOUT)
    text = page.read_text()
    assert text.startswith("# Benchmarks")
    assert "Why it is so: because." in text
    assert text.count("## A CPU, 2 cores") == 1
    assert text.count("## NVIDIA H200, 2 cores") == 1
    assert "| new | at least 2.00 | 3.00 | met |" in text
    assert "| old |" not in text
    assert "no \\| such key" in text


def test_shares_are_relative_to_the_highest_measured_peak():
    work = next(workload for workload in WORKLOADS if workload.name == "mnist_64")
    runs = next(workload for workload in WORKLOADS if workload.measure == "runs")
    first = WorkloadResult(work, {"bare_same": measured(20), "opsin": measured(10)}, True, WORK, Peak(1e11, "f", 1))
    second = WorkloadResult(runs, {"opsin": measured(50)}, True, WORK, Peak(2e11, "f", 1))
    assert work_rows([first, second]) == [
        ("mnist_64", "2,000.0", "3.0", "40", "20%", "20", "10%"),
        (runs.name, "2,000.0", "3.0", "", "", "", ""),
    ]
    assert work_rows([]) == []


def test_a_contender_without_a_speed_has_no_share():
    (row,) = work_rows([result()])
    assert row[3:5] == ("?", "")


def test_the_page_states_work_and_peak():
    page = as_markdown([result()], [], ABOUT)
    assert "share of the measured peak, 100 GFLOP/s (float32 product of 2048 x 2048 matrices):" in page
    assert "| cats_vs_dogs | 2,000.0 | 3.0 |" in page
