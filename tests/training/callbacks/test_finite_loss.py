"""A run that diverges keeps the step, its images and the last good checkpoint, and prints a command that replays it."""

import csv
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from opsin.commands.train import train
from opsin.config import compose, from_saved
from opsin.data import ImageDataModule
from opsin.data.loader.samplers import training_batches
from opsin.errors import UserError
from opsin.runs.directory import RunDirectory
from opsin.training import build
from opsin.training.plan import make_plan

WORDS = (
    "model=mlp",
    "datamodule.batch_size=64",
    "datamodule.train_fraction=0.2",  # five steps per epoch
    "trainer.max_epochs=3",
    "callbacks=no_pictures",
    "callbacks.progress.bar=false",
    "logger=none",
    "report=false",
    "trainer=cpu",
)


def diverging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> tuple[RunDirectory, str]:
    """Return a run that has diverged, and its message."""
    monkeypatch.setenv("OPSIN_TARGETS", "faults")
    run = RunDirectory(tmp_path / "run")
    words = (f"data_dir={tmp_path / 'data'}", f"output_dir={tmp_path}", f"+callbacks.fault={fault}")
    with pytest.raises(UserError) as raised:
        train(compose([*WORDS, *words], run.path))
    result = run.read_result()
    assert (result.status, result.error) == ("failed", f"UserError: {raised.value}")
    return run, str(raised.value)


def images_of(run: RunDirectory) -> ImageDataModule:
    data = build.data(make_plan(from_saved(run)))
    data.setup("fit")
    return data


def test_the_diverged_step_is_saved_and_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, said = diverging(tmp_path, monkeypatch, "{_target_: faults.Poison, step: 7}")
    assert "the training loss is not finite (nan) at step 8, in epoch 2: training diverged" in said
    assert f"The last good checkpoint is {run.last}" in said
    state = torch.load(run.last, weights_only=True)
    assert state["global_step"] == 5
    assert all(torch.isfinite(value).all() for value in state["state_dict"].values())

    folder = run.path / "diverged" / "step_8"
    rows = list(csv.DictReader((folder / "batch.csv").read_text(encoding="utf-8").splitlines()))
    part = images_of(run).subset("train")
    positions = training_batches(part.targets, "shuffle", 42, 1, batch_size=64, batches=5)[2]
    assert [int(row["position"]) for row in rows] == positions.tolist()
    assert [int(row["class"]) for row in rows] == part.targets[positions].tolist()
    shown = np.stack([np.asarray(Image.open(folder / f"{row}.png").convert("L")) for row in range(64)])
    assert np.array_equal(shown[..., None], part.read(positions))
    facts = json.loads((folder / "step.json").read_text(encoding="utf-8"))
    assert (facts["step"], facts["epoch"], facts["batch"], facts["loss"]) == (8, 2, 2, "nan")

    assert said.endswith(facts["replay"])
    words = shlex.split(facts["replay"])
    assert words == ["opsin", "train", f"resume={run.path}", "trainer.detect_anomaly=true"]
    with pytest.raises(RuntimeError, match=r"Function '\w+' returned nan values"):
        train(from_saved(run, words[3:]))


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, said = diverging(tmp_path, monkeypatch, "{_target_: faults.Poison, step: 10, after: true}")
    assert "the weights are not finite after step 10: training diverged" in said
    assert torch.load(run.last, weights_only=True)["global_step"] == 5


def test_the_first_bad_step_is_named_if_losses_are_read_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opsin.training.callbacks.finite_loss.reads_every_step", lambda trainer, loss: False)
    run, said = diverging(tmp_path, monkeypatch, "{_target_: faults.Poison, step: 7}")
    assert "at step 8, in epoch 2" in said
    assert torch.load(run.last, weights_only=True)["global_step"] == 5
