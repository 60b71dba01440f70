"""The pictures of a run: they match their captions, and making them changes nothing else."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_runs import made_run
from PIL import Image
from tiny import tiny

from opsin.commands import report_images
from opsin.commands.report import main
from opsin.commands.report_images import make_images, remake_images
from opsin.config import RunConfig
from opsin.data import ImageDataModule
from opsin.data.augmentation.augmentation import Augmentation
from opsin.evaluation.report.pictures import index_file, read_pictures
from opsin.models import mlp
from opsin.runs.directory import RunDirectory
from opsin.runs.predictions import read_predictions
from opsin.training import build
from opsin.training.network_building import recorded_data
from opsin.training.plan import make_plan
from opsin.visualization.images import resize_for_display


@pytest.fixture
def run(digits_run: RunDirectory, tmp_path: Path) -> RunDirectory:
    """A copy of a finished run."""
    shutil.copytree(digits_run.path, tmp_path / "run")
    return RunDirectory(tmp_path / "run")


def data_of(run: RunDirectory, **changes: Any) -> ImageDataModule:
    data = build.data(make_plan(RunConfig.load(run)), image_format=recorded_data(run).image_format)
    for name, value in changes.items():
        setattr(data, name, value)
    return data


def pixels(file: Path) -> Any:
    return np.asarray(Image.open(file).convert("RGB"))


def test_misclassified_images_have_maps(run: RunDirectory) -> None:
    index = json.loads(remake_images(run).read_text())
    predictions = read_predictions(run, "test")
    assert index["split"] == "test"
    assert len(index["misclassified"]) == min(report_images.MISCLASSIFIED, int((~predictions.correct).sum()))
    part = data_of(run).subset("test")
    sureness = []
    for entry in index["misclassified"]:
        (name, probability), *others = entry["predictions"]
        row = predictions.paths.index(entry["path"])
        assert predictions.classes[predictions.predicted[row]] == name != entry["true"]
        assert predictions.probabilities[row].max() == pytest.approx(probability)
        assert all(other[1] <= probability for other in others)
        image = pixels(run.path / "pictures" / entry["image"])
        expected = resize_for_display(part.read(predictions.positions[row : row + 1])[0], report_images.SIDE)
        assert np.array_equal(image, np.repeat(expected, 3, axis=2))
        assert pixels(run.path / "pictures" / entry["cam"]).shape == image.shape
        sureness.append(probability)
    assert sureness == sorted(sureness, reverse=True)
    found = read_pictures(run)
    assert found is not None
    assert found.stage == "block3"
    assert found.kernels is not None


def test_making_pictures_does_not_change_the_network_or_generators(run: RunDirectory) -> None:
    data = data_of(run, augmentation=Augmentation(rotation=30, brightness=0.4).eval())
    network = tiny(num_logits=10, in_channels=1, image_size=(28, 28)).train()
    network.freeze(["high"])
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    needs = [p.requires_grad for p in network.parameters()]
    states = torch.get_rng_state(), random.getstate()
    make_images(run, data, network, read_predictions(run, "test"))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert [p.requires_grad for p in network.parameters()] == needs
    assert all(p.grad is None for p in network.parameters())
    assert not data.augmentation.training  # type: ignore[union-attr]
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]


@pytest.mark.slow
def test_the_augmentation_sample_shows_the_same_images_plain_and_augmented(run: RunDirectory) -> None:
    network = tiny(num_logits=10, in_channels=1, image_size=(28, 28))
    predictions = read_predictions(run, "test")
    data = data_of(run, augmentation=Augmentation(rotation=90))
    index = json.loads(make_images(run, data, network, predictions).read_text())
    assert "rotation 90" in index["augmentation_text"]
    views = pixels(run.path / "pictures" / "augmentation.png")
    make_images(run, data, network, predictions)
    assert np.array_equal(pixels(run.path / "pictures" / "augmentation.png"), views)  # drawn again and equal
    index = json.loads(make_images(run, data_of(run, augmentation=None), network, predictions).read_text())
    assert index["augmentation_text"] == "none"
    plain = pixels(run.path / "pictures" / "augmentation.png")
    assert plain.shape[0] < views.shape[0] / 4  # one row of them
    assert np.array_equal(plain[6:102, 6:102], views[6:102, 6:102])  # the first image of both


def test_mixed_images_are_shown_too(run: RunDirectory) -> None:
    data = data_of(run, augmentation=Augmentation(mixup=1.0, num_classes=10))
    network = tiny(num_logits=10, in_channels=1, image_size=(28, 28))
    index = json.loads(make_images(run, data, network, read_predictions(run, "val")).read_text())
    assert "mixup" in index["augmentation_text"]
    assert index["split"] == "val"


def test_a_network_without_maps_has_a_report_without_maps(run: RunDirectory) -> None:
    network = mlp(num_logits=10, in_channels=1, image_size=(28, 28))
    index = json.loads(make_images(run, data_of(run), network, read_predictions(run, "test")).read_text())
    assert index["stage"] is None
    assert "no class activation maps" in index["note"]
    assert all(entry["cam"] is None for entry in index["misclassified"])
    assert index["kernels"] is None


def test_a_network_without_errors_has_no_misclassified_images(run: RunDirectory) -> None:
    predictions = read_predictions(run, "test")
    right = np.eye(10, dtype=np.float32)[predictions.targets]
    perfect = type(predictions)(**{**vars(predictions), "logits": right})
    network = tiny(num_logits=10, in_channels=1, image_size=(28, 28))
    assert json.loads(make_images(run, data_of(run), network, perfect).read_text())["misclassified"] == []


def test_the_command_makes_missing_predictions_and_pictures(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("predictions", "pictures"):
        shutil.rmtree(run.path / folder)
    assert main([str(run.path), "--page-only"]) == 0
    page = run.path / "report.html"
    assert "There are no predictions" in page.read_text()
    assert not index_file(run).exists()
    assert main([str(run.path)]) == 0
    assert "There are no predictions" not in page.read_text()
    assert index_file(run).exists()
    assert capsys.readouterr().out.splitlines()[-1] == str(page)


def test_the_command_writes_a_report_without_new_images_if_the_checkpoint_is_damaged(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    run.best.write_bytes(b"damaged")
    assert main([str(run.path)]) == 0
    assert "without new images" in capsys.readouterr().err
    assert "correctly" in (run.path / "report.html").read_text()


@pytest.mark.parametrize(
    ("metrics", "expected"), [({"val/acc": 0.9}, ["val"]), ({"val/acc": 0.9, "test/loss": 1.0}, ["val", "test"])]
)
def test_the_test_images_of_a_run_that_was_not_tested_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metrics: dict[str, float], expected: list[str]
) -> None:
    made = made_run(tmp_path / "run", result={"metrics": metrics})
    made.best.parent.mkdir()
    made.best.touch()
    read: list[str] = []
    monkeypatch.setattr("opsin.commands.evaluate.evaluate", lambda run, split: read.append(split))
    monkeypatch.setattr(report_images, "remake_images", lambda run: None)
    assert main([str(made.path)]) == 0
    assert read == expected
    assert f"has no predictions of {expected[-1]}" in (made.path / "report.html").read_text()


def test_the_command_refuses_a_path_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert "is not a run directory" in capsys.readouterr().err
