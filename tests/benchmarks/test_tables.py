import json

import pytest
import torch
from torch import nn

from benchmarks.goals import at_least
from benchmarks.mfu import PEAK_TFLOPS, compute_share, training_flops, utilization
from benchmarks.session import Measurement
from benchmarks.tables import WorkloadResult, as_json, as_markdown, rows, tables, write_page
from benchmarks.workloads import WORKLOADS
from opsin.models import cnn_gap, summarize
from opsin.models.network import Network

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
    return WorkloadResult(work, others, real=True, compute={})


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
    (row,) = rows([WorkloadResult(work, {"opsin": found}, real=True, compute={})])
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


def test_flops_include_a_backward_pass_only_if_something_trains():
    network = cnn_gap(num_logits=10, in_channels=1, image_size=(28, 28))
    trained = summarize(network, (1, 28, 28))
    assert training_flops(trained) == 6 * trained.mult_adds
    network.freeze("head")
    frozen = summarize(network, (1, 28, 28))
    head = frozen.rows[-1].mult_adds
    assert training_flops(frozen) == 2 * (frozen.mult_adds - head) + 6 * head


def test_the_share_of_peak_is_known_for_known_gpus_only():
    network = Network("one", {"a": nn.Flatten()}, nn.Linear(10, 10, bias=False))
    summary = summarize(network, (1, 2, 5))  # 100 multiply-adds
    assert compute_share(summary, 1e9, "NVIDIA H200") == pytest.approx(600e9 / (PEAK_TFLOPS["H200"] * 1e12))
    assert compute_share(summary, 1e9, "Some other card") is None
    assert compute_share(summary, 1e9, None) is None
    if not torch.cuda.is_available():
        assert utilization() is None
