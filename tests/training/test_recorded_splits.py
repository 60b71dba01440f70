"""A run whose weights or teacher were trained on its val or test images gets a warning with the number of images."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from datamodules import image_data
from sharded import source

from opsin.data import ImageDataModule
from opsin.models.fine_tuning import FineTuning
from opsin.runs.directory import RunDirectory
from opsin.runs.result import RunResult
from opsin.training.distillation import DistillationWeights
from opsin.training.recorded_splits import recorded_options, warn_seen_images
from opsin.training.recording import data_facts

IMAGES = source(120)
WITHOUT_LABELS = DistillationWeights(labels=0)


def opened(tmp_path: Path, images: Any = IMAGES, seed: int = 1, **options: Any) -> ImageDataModule:
    data = image_data(images, seed=seed, data_dir=str(tmp_path), **options)
    data.setup("fit")
    return data


def recorded(tmp_path: Path, images: Any = IMAGES, seed: int = 1, sections: Any = None, **options: Any) -> Path:
    """Write config and result as a run on some images does, without training."""
    run = RunDirectory(tmp_path / "earlier")
    run.path.mkdir()
    run.config.write_text(yaml.safe_dump({"seed": seed, "datamodule": options, **(sections or {})}))
    run.write_result(RunResult(data=data_facts(opened(tmp_path, images, seed, **options))))
    return run.path


@pytest.mark.parametrize(
    ("earlier", "now", "parts", "way_out"),
    [
        ({"seed": 0}, {}, ("val", "test"), "datamodule.split_seed=0"),
        ({"seed": 5, "split_seed": 0}, {}, ("val", "test"), "datamodule.split_seed=0"),
        ({"seed": 0, "image_size": [8, 8]}, {}, ("val", "test"), "datamodule.split_seed=0"),
        ({"num_folds": 4, "fold": 3}, {"num_folds": 4}, ("val",), "datamodule.fold=3"),
        ({}, {"num_folds": 4}, ("val",), "datamodule.num_folds=null"),
        ({}, {"test_fraction": 0.5}, ("val", "test"), "datamodule.test_fraction=0.2"),
    ],
)
def test_the_images_that_the_earlier_run_trained_on_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, earlier: dict, now: dict, parts: tuple[str, ...], way_out: str
) -> None:
    run, data = recorded(tmp_path, **earlier), opened(tmp_path, **now)
    trained = set(opened(tmp_path, **earlier).subset("train").index.tolist())
    warn_seen_images(FineTuning(weights=str(run)), DistillationWeights(), data)
    (line,) = (message for message in caplog.messages if "was trained on" in message)
    for split in parts:
        rows = data.subset(split).index.tolist()
        assert f"{len(trained & set(rows))} of the {len(rows)} {split} images" in line
    assert tuple(re.findall(r"(\w+) images\b(?! as)", line)) == parts
    assert line.startswith(f"model.weights={run} was trained on ")
    assert line.endswith(f" did: {way_out}")


@pytest.mark.parametrize(
    ("earlier", "now"),
    [
        ({}, {}),
        ({"train_fraction": 0.5}, {}),
        ({"image_size": 8}, {}),
        ({"seed": 0}, {"split_seed": 0}),
        ({"images": source(120, seed=1), "seed": 0}, {}),
        ({"seed": 0, "sections": {"model": {"teacher": "net"}, "distillation": {"labels": 0}}}, {}),
    ],
    ids=["same split", "fewer images", "another size", "the advice", "other images", "no labels"],
)
def test_no_warning_if_the_earlier_run_knew_no_label_of_the_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, earlier: dict, now: dict
) -> None:
    run = recorded(tmp_path, **earlier)
    warn_seen_images(FineTuning(weights=str(run)), DistillationWeights(), opened(tmp_path, **now))
    assert "was trained on" not in caplog.text


def test_splits_of_the_dataset_are_the_same_in_every_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parts = dict.fromkeys(("train", "val", "test"), IMAGES.splits["train"])
    given = replace(IMAGES, splits=parts)
    run = recorded(tmp_path, given, seed=0)
    warn_seen_images(FineTuning(weights=str(run)), DistillationWeights(), opened(tmp_path, given))
    assert "was trained on" not in caplog.text


def test_checkpoints_and_teachers_are_runs_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run, data = recorded(tmp_path, seed=0), opened(tmp_path)
    taught = FineTuning(teacher=str(run))
    for learned, distillation, key in (
        (FineTuning(weights=str(run / "checkpoints" / "best.ckpt")), DistillationWeights(), "model.weights"),
        (taught, DistillationWeights(), "model.teacher"),
        (taught, replace(WITHOUT_LABELS, logits=1), "model.teacher"),
        (taught, WITHOUT_LABELS, None),
        (FineTuning(weights="imagenet", teacher="efficientnet_lite0"), DistillationWeights(), None),
    ):
        caplog.clear()
        warn_seen_images(learned, distillation, data)
        assert (f"{key}={run} was trained on" in caplog.text) == (key is not None)
        assert bool(caplog.text) == (key is not None)


def test_a_damaged_record_of_another_run_does_not_end_this_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunDirectory(recorded(tmp_path, seed=0))
    assert recorded_options(run).split_seed == 0
    run.config.write_text(run.config.read_text().replace("{}", "{val_fraction: many}"))
    warn_seen_images(FineTuning(weights=str(run.path)), DistillationWeights(), opened(tmp_path))
    assert "was trained on" not in caplog.text
