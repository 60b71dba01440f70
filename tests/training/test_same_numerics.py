"""A resume keeps the recorded number of threads, or says that the result is not bit-identical."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from damage import copy_of

from opsin.commands.train import train
from opsin.config import from_saved
from opsin.runs.directory import RunDirectory
from opsin.runs.result import Hardware, RunResult, Settings
from opsin.training.same_numerics import resume_warnings, resumed_threads
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
    ("options", "threads"),
    [
        (TrainerOptions(), 2),
        (TrainerOptions(threads=1), 1),  # chosen by the user
        (TrainerOptions(devices=2), "auto"),
    ],
)
def test_threads_of_a_resume(options: TrainerOptions, threads: object) -> None:
    assert resumed_threads(options, BEFORE.settings) == threads
    assert resumed_threads(options, None) == options.threads


def test_changes_that_round_differently_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
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
    many = replace(BEFORE, settings=replace(BEFORE.settings, threads=64))
    assert resume_warnings(many, many) == [
        "the run keeps its 64 CPU threads, and this machine has 8 cores: trainer.threads=8 is faster, but not "
        "bit-identical"
    ]
