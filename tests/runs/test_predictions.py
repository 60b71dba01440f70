"""Saved predictions of val and test: complete, correct, and assigned to identified images."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datamodules import image_data
from made_runs import made_run, predictions_of

from opsin.commands.compare import thumbnails
from opsin.commands.evaluate import evaluate, write_predictions
from opsin.commands.interpret.error_analysis import error_analysis
from opsin.commands.interpret.model_and_images import open_model_and_images
from opsin.commands.report_images import remake_images
from opsin.data.datasets import digits
from opsin.errors import UserError
from opsin.runs.directory import RunDirectory
from opsin.runs.per_class import read_scores
from opsin.runs.predictions import Predictions, predictions_file, read_predictions, softmax


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_run_saves_the_predictions_of_its_best_checkpoint_for_every_image(
    digits_run: RunDirectory, split: str
) -> None:
    result, kept = digits_run.read_result(), read_predictions(digits_run, split)
    assert kept.classes == tuple(result.data.classes)
    assert kept.positions.tolist() == list(range(result.data.counts[split]))
    assert kept.correct.mean() == pytest.approx(result.metrics[f"{split}/acc"], abs=1e-7)
    nll = -np.log(kept.probabilities[np.arange(len(kept)), kept.targets]).mean()
    assert nll == pytest.approx(result.metrics[f"{split}/loss"], rel=1e-4)
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (kept.targets, kept.predicted), 1)
    np.testing.assert_array_equal(confusion, read_scores(digits_run, split).confusion)
    assert kept.paths[3].startswith("digits")


def test_evaluation_writes_the_same_predictions_again(digits_run: RunDirectory) -> None:
    kept = read_predictions(digits_run, "val")
    predictions_file(digits_run, "val").unlink()
    with pytest.raises(UserError, match=r"opsin evaluate .* --split val"):
        read_predictions(digits_run, "val")
    evaluate(digits_run, "val")
    again = read_predictions(digits_run, "val")
    assert again.images == kept.images
    assert again.paths == kept.paths
    np.testing.assert_allclose(again.logits, kept.logits, atol=1e-5)


@pytest.mark.parametrize("status", ["interrupted", "failed"])
def test_an_evaluation_leaves_the_predictions_that_a_resume_needs(
    status: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flags = np.arange(12) % 2 == 0
    run = made_run(tmp_path / "run", flags, split="val", result={"status": status})
    write_predictions(run, predictions_of(flags[:3], "images", "val"))
    assert len(read_predictions(run, "val")) == 12  # the resume fits the temperature on them
    assert "val.npz is not replaced, because the unfinished run needs it: use --out" in caplog.text
    write_predictions(RunDirectory(run.path, tmp_path / "out"), predictions_of(flags[:3], "images", "val"))
    assert len(read_predictions(RunDirectory(tmp_path / "out"), "val")) == 3
    write_predictions(run, predictions_of(flags, "images"))
    write_predictions(run, predictions_of(flags[:5], "images"))
    assert len(read_predictions(run, "test")) == 5  # a resume deletes those of test
    predictions_file(run, "val").write_bytes(b"damaged")
    write_predictions(run, predictions_of(flags, "images", "val"))
    assert len(read_predictions(run, "val")) == 12


def test_the_identity_of_images_depends_on_their_selection_and_not_on_their_size(tmp_path: Path) -> None:
    def identity(**options: object) -> str:
        data = image_data(digits(), data_dir=str(tmp_path), **options)  # type: ignore[arg-type]
        return data.subset("val").identity

    assert identity() == identity(image_size=12) == identity(train_fraction=0.5)
    assert identity() != identity(split_seed=1)
    assert identity() != identity(val_fraction=0.2)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    logits = np.array([[0.0, 1.0], [3.0, -1.0]], np.float32)
    names = ("a\udcff.png", "b.png")  # a name that is no text
    Predictions("test", ("cat", "dog"), logits, np.array([1, 1]), np.arange(2), names, "x").write(run)
    kept = read_predictions(run, "test")
    assert kept.paths == ("a\\xff.png", "b.png")
    assert kept.correct.tolist() == [True, False]
    file = predictions_file(run, "test")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"test\.npz is damaged"):
        read_predictions(run, "test")


@pytest.mark.parametrize(
    "values",
    [
        {"logits": np.eye(3, dtype=int)},
        {"targets": np.array([0, 1, 3])},
        {"targets": np.array([0, 1, -1])},
        {"targets": np.array([0.0, 1.0, 2.0])},
        {"positions": np.array([-1, 0, 1])},
        {"positions": np.array(["0", "1", "2"])},
        {"classes": (1, 2, 3)},
        {"paths": (1, 2, 3)},
    ],
)
def test_values_without_a_meaning_are_damage(tmp_path: Path, values: dict[str, Any]) -> None:
    run = RunDirectory(tmp_path)
    kept = asdict(predictions_of(np.ones(3, bool), "images")) | values
    (tmp_path / "predictions").mkdir()
    np.savez(predictions_file(run, "test"), **{name: np.array(value) for name, value in kept.items()})
    with pytest.raises(UserError, match=r"test\.npz is damaged: create them with"):
        read_predictions(run, "test")


@pytest.mark.slow
def test_a_position_beyond_the_split_is_named(digits_run: RunDirectory, tmp_path: Path) -> None:
    run = RunDirectory(shutil.copytree(digits_run.path, tmp_path / "run"))
    kept = read_predictions(run, "test")
    replace(kept, positions=kept.positions + 1000).write(run)
    message = (
        r"the predictions of test are damaged: one is of image 1,\d+, and test has 359 images. Delete predictions/"
    )
    with pytest.raises(UserError, match=message):
        remake_images(run)
    with pytest.raises(UserError, match=message):
        thumbnails(run, "test", np.array([1358]))
    with pytest.raises(UserError, match=message):
        list(error_analysis(open_model_and_images(str(run.path)), 2, "test"))


def test_softmax_is_exact_for_large_logits() -> None:
    rows = softmax(np.array([[1000.0, 1000.0], [0.0, np.log(3.0)]], np.float32))
    np.testing.assert_allclose(rows, [[0.5, 0.5], [0.25, 0.75]], atol=1e-7)
