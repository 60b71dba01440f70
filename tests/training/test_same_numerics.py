"""A resume and an evaluation keep the recorded threads and precision; a message names changes that affect rounding."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from damage import copy_of

from opsin.commands.evaluate import measure
from opsin.commands.train import train
from opsin.config import compose, from_saved
from opsin.errors import Interrupted
from opsin.inference.inputs import open_images
from opsin.inference.opened_run import open_run
from opsin.inference.predictor import open_predictor
from opsin.inference.trained_model import load_trained_model
from opsin.runs.directory import RunDirectory
from opsin.runs.predictions import read_predictions
from opsin.runs.result import Hardware, PrecisionResult, RunResult, Settings
from opsin.training.precision import ISA_VARIABLE
from opsin.training.same_numerics import evaluation_options, resume_warnings, resumed_options
from opsin.training.trainer import TrainerOptions

BEFORE = RunResult(
    settings=Settings(accelerator="cpu", precision="32-true", threads=2),
    hardware=Hardware(cpu="a"),
    versions={"torch": "2.10"},
)


def test_a_resume_uses_the_recorded_threads(digits_run: RunDirectory, tmp_path: Path) -> None:
    run = RunDirectory(copy_of(digits_run.path, tmp_path / "run"))
    result = run.read_result()
    assert result.settings
    run.write_result(replace(result, settings=replace(result.settings, threads=3)))
    before = torch.get_num_threads()
    try:
        train(from_saved(run, ["trainer.max_epochs=2", "report=false"]))
        assert run.read_result().settings.threads == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("options", "threads", "precision"),
    [
        (TrainerOptions(accelerator="cpu"), 2, "bf16"),
        (TrainerOptions(accelerator="cpu", threads=1), 1, "bf16"),  # chosen by the user
        (TrainerOptions(accelerator="cpu", precision="32"), 2, "32"),
        (TrainerOptions(accelerator="cpu", devices=2), "auto", "bf16"),
    ],
)
def test_a_resume_keeps_the_values_that_auto_resolved_to(
    options: TrainerOptions, threads: object, precision: str
) -> None:
    kept = resumed_options(options, replace(BEFORE.settings, precision="bf16-mixed"))
    assert (kept.threads, kept.precision) == (threads, precision)
    assert resumed_options(options, None) == options
    elsewhere = resumed_options(options, replace(BEFORE.settings, accelerator="cuda"))
    assert elsewhere.precision == options.precision


@pytest.mark.parametrize(
    ("recorded", "devices", "num_nodes", "threads"),
    [
        (1, "auto", 1, 2),  # a CPU is one device
        (2, [0, 1], 1, 2),
        (1, [3], 1, 2),
        (4, 2, 2, 2),
        (4, [0, 1], 2, 2),
        (2, 2, 2, "auto"),  # it was on one machine before
        (1, [0, 1], 1, "auto"),
        (2, "auto", 1, "auto"),
    ],
)
def test_the_recorded_threads_are_kept_on_the_same_number_of_devices(
    recorded: int, devices: Any, num_nodes: int, threads: object
) -> None:
    options = TrainerOptions(accelerator="cpu", devices=devices, num_nodes=num_nodes)
    assert resumed_options(options, replace(BEFORE.settings, devices=recorded)).threads == threads


def test_all_gpus_count_as_devices_of_a_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    options = TrainerOptions(accelerator="gpu", devices="auto")
    kept = [resumed_options(options, replace(BEFORE.settings, devices=count)).threads for count in (4, 1)]
    assert kept == [2, "auto"]


def test_an_evaluation_repeats_the_recorded_numbers(digits_run: RunDirectory, tmp_path: Path) -> None:
    run = RunDirectory(copy_of(digits_run.path, tmp_path / "run"))
    result = run.read_result()
    run.write_result(replace(result, settings=replace(result.settings, precision="bf16-mixed", threads=1)))
    options = open_run(run).plan.trainer
    assert (options.precision, options.threads) == ("bf16", 1)
    assert open_run(run, ["trainer.precision=32"]).plan.trainer.precision == 32
    assert open_predictor(run.path)._device.precision == "bf16-mixed"
    trained = load_trained_model(str(run.path))
    assert str(open_images(trained, ["datamodule=digits"]).trainer.precision) == "bf16-mixed"

    recorded = replace(result.settings, accelerator="cuda", threads=10**4)  # another machine
    assert evaluation_options(TrainerOptions(accelerator="cpu"), recorded) == TrainerOptions(accelerator="cpu")
    assert evaluation_options(TrainerOptions(), None) == TrainerOptions()


@pytest.mark.slow
def test_bfloat16_is_measured_once_and_a_resume_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run is undisturbed, another one stops within an epoch; both use the bfloat16 that a measurement chose."""
    monkeypatch.setenv("OPSIN_TARGETS", "interruptions")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(ISA_VARIABLE, raising=False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    measured: list[float] = []
    monkeypatch.setattr("opsin.training.precision_timing.measure_gain", lambda *_: measured.append(1.7) or 1.7)
    words = ("model=simple_cnn", "augmentation=digits", "trainer=cpu", "datamodule.train_fraction=0.2")
    quiet = ("callbacks=no_pictures", "callbacks.progress.bar=false", "logger=none", "report=false")
    places = (f"data_dir={tmp_path / 'data'}", f"output_dir={tmp_path}", "trainer.max_epochs=2")
    whole, again, stopped = (RunDirectory(tmp_path / name) for name in ("whole", "again", "stopped"))
    for run in (whole, again):
        train(compose([*words, *quiet, *places], run.path))
    stop = "+callbacks.stop={_target_: interruptions.StopAt, step: 3, how: SIGINT}"
    with pytest.raises(Interrupted):
        train(compose([*words, *quiet, *places, stop], stopped.path))
    train(from_saved(stopped, ["callbacks.stop=null"]))
    assert measured == [1.7]

    first = torch.load(whole.last, weights_only=True)["state_dict"]
    for run in (whole, again, stopped):
        result = run.read_result()
        assert result.settings.precision == "bf16-mixed"
        assert result.precision_auto.speedup == 1.7
        assert "AVX512_BF16" in result.precision_auto.reason
        assert result.metrics == whole.read_result().metrics
        state = torch.load(run.last, weights_only=True)["state_dict"]
        assert all(torch.equal(first[name], state[name]) for name in first)
    _, predictions = measure(stopped)
    assert np.array_equal(predictions.logits, read_predictions(whole, "test").logits)


def test_changes_that_affect_rounding_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert resume_warnings(BEFORE, BEFORE) == []
    other = replace(BEFORE, settings=replace(BEFORE.settings, threads=4, batch_size=7), versions={"torch": "2.11"})
    said = "trainer.threads was 2, and now it is 4; torch was 2.10, and now it is 2.11"
    assert resume_warnings(BEFORE, other) == [
        f"the result is not bit-identical to that of an uninterrupted run: {said}"
    ]
    gpu = replace(BEFORE, settings=replace(BEFORE.settings, accelerator="cuda"), hardware=Hardware(gpus=("H100",)))
    assert "trainer.accelerator was cpu, and now it is cuda; the GPU was None, and now it is H100" in str(
        resume_warnings(BEFORE, gpu)
    )
    chose = replace(BEFORE, precision_auto=PrecisionResult("bf16", "measured", 2.0))
    assert resume_warnings(chose, chose, {"amx_bf16": True}) == []
    assert "no instructions: trainer.precision=32 is faster" in str(resume_warnings(chose, chose, {"avx2": True}))
    many = replace(BEFORE, settings=replace(BEFORE.settings, threads=64))
    assert resume_warnings(many, many) == [
        "the run keeps its 64 CPU threads, and this machine has 8 cores: trainer.threads=8 is faster, but not "
        "bit-identical"
    ]
