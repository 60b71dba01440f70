"""Checkpoints within an epoch: a run resumed from them is bit-identical, and no curve repeats or lacks a step."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from opsin.commands.train import train
from opsin.config import compose, from_saved
from opsin.runs.directory import RunDirectory

WORDS = (
    "model=simple_cnn",
    "augmentation=digits",
    "scheduler=onecycle",
    "datamodule.batch_size=64",
    "datamodule.train_fraction=0.2",  # five steps per epoch
    "trainer.max_epochs=3",
    "trainer.log_every_n_steps=1",
    "callbacks=no_pictures",
    "callbacks.progress.bar=false",
    "report=false",
    "trainer=cpu",
)


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPSIN_TARGETS", "interruptions")

    def start(name: str, *words: str) -> RunDirectory:
        run = RunDirectory(tmp_path / "outputs" / name)
        run.path.mkdir(parents=True)
        places = (f"data_dir={tmp_path / 'data'}", f"output_dir={tmp_path / 'outputs'}")
        with pytest.raises(RuntimeError) if any("StopAt" in word for word in words) else contextlib.nullcontext():
            train(compose([*WORDS, *places, *words], run.path))
        return run

    return start


def curves(run: RunDirectory) -> dict[str, list[tuple[int, float]]]:
    """Return the points of each curve in TensorBoard."""
    events = EventAccumulator(str(run.path / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    names = [name for name in events.Tags()["scalars"] if "images_per_second" not in name]
    return {name: [(point.step, point.value) for point in events.Scalars(name)] for name in names}


def weights(run: RunDirectory) -> dict[str, Any]:
    return torch.load(run.last, weights_only=True)["state_dict"]


@pytest.mark.slow
def test_a_run_resumes_from_a_checkpoint_within_an_epoch(start, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = start("whole")
    stop = "+callbacks.stop={_target_: interruptions.StopAt, step: 14, how: error}"
    cut = start("cut", "callbacks.checkpoints.every_n_steps=4", stop)
    assert torch.load(cut.step, weights_only=True)["global_step"] == 12
    assert torch.load(cut.last, weights_only=True)["global_step"] == 10
    monkeypatch.setattr("time.time", lambda: 1e9)  # the clock went back
    train(from_saved(cut, ["callbacks.stop=null"]))
    assert not cut.step.exists()
    assert cut.metrics.read_text() == whole.metrics.read_text()
    assert curves(cut) == curves(whole)
    assert [step for step, _ in curves(cut)["train/loss_step"]] == list(range(15))
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(cut).items())
    assert cut.read_result().metrics == whole.read_result().metrics


def test_checkpoints_by_time_wait_for_accumulated_gradients(start, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(0, 10**6, 60))
    monkeypatch.setattr("opsin.training.callbacks.checkpoints.time.monotonic", lambda: next(seconds))
    saved: list[int] = []

    def save(callback: Any, trainer: Any, file: Path) -> None:
        if file.name == "step.ckpt":
            saved.append(trainer.global_step)
        trainer.save_checkpoint(file)
        callback._saved_at = next(seconds)

    monkeypatch.setattr("opsin.training.callbacks.checkpoints.Checkpoints._save", save)
    words = ("trainer.accumulate_grad_batches=2", "trainer.max_epochs=1", "callbacks.checkpoints.every_minutes=2")
    start("run", *words)
    assert saved == [2]  # of three steps; two looks at the clock are two minutes apart, and the epoch ends with its own
