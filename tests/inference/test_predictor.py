"""Predictions equal those of validation with any batch size, and memory does not grow with the number of files."""

import shutil
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from omegaconf import OmegaConf
from PIL import Image
from sklearn.datasets import load_digits

from opsin.commands.train import train
from opsin.config import RunConfig, compose
from opsin.errors import UserError
from opsin.evaluation.calibration import calibrate, temperature_scaled
from opsin.inference import Predictor, open_predictor
from opsin.inference.inputs import open_images
from opsin.inference.trained_model import TrainedModel
from opsin.models.network import class_logits
from opsin.runs.directory import RunDirectory
from opsin.runs.predictions import read_predictions, softmax
from opsin.training import build
from opsin.training.module import load_network
from opsin.training.network_building import prepare, recorded_data
from opsin.training.plan import make_plan


def photographs(folder: Path, classes: int) -> None:
    """Digits in color, of odd sizes, as JPEG and PNG, in one folder per class."""
    digits = load_digits(n_class=classes)
    generator = np.random.default_rng(0)
    for i in range(300):
        place = folder / f"class {digits.target[i]}"
        place.mkdir(exist_ok=True, parents=True)
        image = Image.fromarray((digits.images[i] * 15).astype(np.uint8)).convert("RGB")
        size = tuple(generator.integers(20, 60, 2).tolist())
        image.resize(size, Image.Resampling.BICUBIC).save(place / f"{i}.{'jpg' if i % 2 else 'png'}")


def trained(folder: Path, *words: str) -> RunDirectory:
    run = folder / "run"
    run.mkdir()
    common = ("trainer=cpu", "trainer.max_epochs=1", "callbacks.progress.bar=false", "logger=none")
    train(compose([*common, f"data_dir={folder / 'data'}", f"output_dir={folder}", *words], run))
    return RunDirectory(run)


def validated(run: RunDirectory) -> tuple[NDArray[np.float64], list[str]]:
    """The probabilities that Lightning's own validation gives, and the files that it reads."""
    plan = make_plan(RunConfig.load(run))
    data = build.data(plan, image_format=recorded_data(run).image_format)
    loss = build.loss(plan, data)
    network, _ = build.network(plan, data, loss.num_logits, pretrained=False)
    prepare(plan, network)
    classifier = build.classifier(plan, data, network, loss, record={})
    load_network(network, run.best)
    logits: list[torch.Tensor] = []
    network.register_forward_hook(lambda *call: logits.append(class_logits(call[-1].float())))
    build.evaluator(plan, run).validate(classifier, data, verbose=False)
    part = data.subset("val")
    temperature = run.read_result().temperature
    return softmax(torch.cat(logits).numpy(), temperature), [part.locate(i) for i in range(len(part))]


CASES = {
    "two classes, one logit, bfloat16": (2, "model=cnn_gap", "trainer.precision=bf16"),
    "three classes, BatchNorm, cropped": (3, "model=cnn_batchnorm", "datamodule.resize=crop"),
    "weights in double precision": (3, "model=cnn_gap", "trainer.precision='64'"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_predictions_of_files_equal_those_of_validation(case: str, tmp_path: Path) -> None:
    classes, *words = CASES[case]
    photographs(tmp_path / "photos", classes)
    run = trained(
        tmp_path,
        "datamodule=image_folder",
        f"datamodule.path={tmp_path / 'photos'}",
        "datamodule.image_size=32",
        *words,
    )
    expected, paths = validated(run)
    shutil.rmtree(tmp_path / "data")  # the predictions that the run saved are not needed
    predictor = open_predictor(run.path)
    predictions = list(predictor.predict(map(Path, paths)))
    assert len(predictions) >= 16
    assert [str(answer.path) for answer in predictions] == paths
    found = np.stack([answer.probabilities for answer in predictions])
    np.testing.assert_array_equal(found, expected)
    assert found.argmax(1).min() >= 0
    assert not np.allclose(found, found[0])
    for size in (1, 7):
        again = list(open_predictor(run.path, batch_size=size).predict(map(Path, paths)))
        np.testing.assert_allclose(np.stack([answer.probabilities for answer in again]), expected, atol=1e-5)


@pytest.mark.slow
def test_predictions_of_pixels_equal_those_of_validation(digits_run: RunDirectory) -> None:
    expected, _ = validated(digits_run)
    predictor = open_predictor(digits_run.path, ["trainer.accelerator=cpu"])
    pixels = open_images(predictor.trained).subset("val").read(np.arange(len(expected)))
    np.testing.assert_array_equal(predictor.probabilities(pixels), expected)
    np.testing.assert_array_equal(predictor.probabilities(pixels[:3]), expected[:3])
    assert predictor.probabilities(pixels[:0]).shape == (0, 10)
    assert predictor.classes == tuple("0123456789")


def test_the_temperature_changes_probabilities_but_not_classes(digits_run: RunDirectory) -> None:
    saved = read_predictions(digits_run, "val")
    result = digits_run.read_result()
    assert result.calibration == calibrate(saved.logits, saved.targets)
    assert result.calibration is not None
    assert result.calibration.nll[1] < result.calibration.nll[0]
    assert result.metrics["val/loss"] == pytest.approx(result.calibration.nll[0], abs=1e-5)  # measured without it
    scaled, raw = open_predictor(digits_run.path), open_predictor(digits_run.path, raw=True)
    pixels = open_images(raw.trained).subset("val").read(np.arange(len(saved)))
    np.testing.assert_array_equal(raw.probabilities(pixels), saved.probabilities)
    found = scaled.probabilities(pixels)
    np.testing.assert_array_equal(found, temperature_scaled(saved.logits, result.temperature))
    np.testing.assert_array_equal(found.argmax(1), saved.predicted)
    assert np.abs(found - saved.probabilities).max() > 0.01


def test_a_run_without_the_keys_of_its_trainer_predicts_with_their_defaults(
    digits_run: RunDirectory, tmp_path: Path
) -> None:
    run = RunDirectory(Path(shutil.copytree(digits_run.path, tmp_path / "run")))
    saved = OmegaConf.load(run.config)
    saved.trainer = {"accelerator": "cpu"}  # as after `~trainer.precision` and others on the command line
    OmegaConf.save(saved, run.config)
    pixels = np.zeros((1, 28, 28, 1), np.uint8)
    expected = open_predictor(digits_run.path).probabilities(pixels)
    np.testing.assert_array_equal(open_predictor(run.path).probabilities(pixels), expected)


def test_logits_of_minus_infinity_give_the_probability_zero(
    digits_run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = open_predictor(digits_run.path)
    pixels = np.zeros((2, 28, 28, 1), np.uint8)
    whole, one = predictor._logits, torch.tensor([1])
    for value, shown in ((-torch.inf, True), (torch.inf, False), (torch.nan, False)):
        monkeypatch.setattr(predictor, "_logits", lambda images, value=value: whole(images).index_fill(1, one, value))
        if shown:
            found = predictor.probabilities(pixels)
            assert (found[:, 1] == 0).all()
            np.testing.assert_allclose(found.sum(1), 1)
        else:
            with pytest.raises(UserError, match="its training diverged"):
                predictor.probabilities(pixels)


@pytest.mark.parametrize("value", [-torch.inf, torch.inf, torch.nan])
def test_embeddings_that_are_not_finite_are_refused(
    value: float, digits_run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = open_predictor(digits_run.path)
    network, one = predictor.trained.network, torch.tensor([1])
    whole = network.embed
    monkeypatch.setattr(network, "embed", lambda images: whole(images).index_fill(1, one, value))
    with pytest.raises(UserError, match="its training diverged"):
        predictor.embeddings(np.zeros((2, 28, 28, 1), np.uint8))


def test_pixels_of_another_kind_are_refused(digits_run: RunDirectory) -> None:
    predictor = open_predictor(digits_run.path)
    with pytest.raises(ValueError, match=r"uint8 \(2, 9, 9, 1\) instead of uint8 \(N, "):
        predictor.probabilities(np.zeros((2, 9, 9, 1), np.uint8))
    with pytest.raises(ValueError, match="float64"):
        predictor.probabilities(np.zeros((2, *predictor.trained.size, 1)))


def test_results_keep_the_order_of_good_and_bad_files(digits_run: RunDirectory, tmp_path: Path) -> None:
    for i in range(40):
        if i % 3:
            Image.fromarray(np.full((9, 9), i * 6, np.uint8)).save(tmp_path / f"{i}.png")
    paths = [tmp_path / f"{i}.png" for i in range(40)]
    predictions = list(open_predictor(digits_run.path, batch_size=8).predict(paths))
    assert [answer.path for answer in predictions] == paths
    assert all((answer.probabilities is None) == (i % 3 == 0) for i, answer in enumerate(predictions))
    assert predictions[0].reason == "cannot be read: No such file or directory"
    alone = list(open_predictor(digits_run.path).predict([tmp_path / "38.png"]))
    np.testing.assert_allclose(predictions[38].probabilities, alone[0].probabilities, atol=1e-6)
    assert not np.allclose(predictions[38].probabilities, predictions[1].probabilities)


@pytest.mark.parametrize("files", [5_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_number_of_files(
    files: int, digits_run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = open_predictor(digits_run.path)
    taken = 0

    def paths() -> Iterator[Path]:
        nonlocal taken
        for _ in range(files):
            taken += 1
            yield Path("image.png")

    def read(self: TrainedModel, image: Path | bytes) -> NDArray[np.uint8]:
        return np.zeros((*self.size, 1), np.uint8)

    monkeypatch.setattr(TrainedModel, "read", read)
    monkeypatch.setattr(Predictor, "probabilities", lambda self, pixels: np.zeros((len(pixels), 10)))
    tracemalloc.start()
    try:
        ahead = 0
        for count, _ in enumerate(predictor.predict(paths()), 1):
            ahead = max(ahead, taken - count)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == files
    assert ahead < 2 * predictor.batch_size
    assert peak < 2.5e6  # 5,000 images of 28 x 28 alone would take 3.9 MB


def test_predictions_can_be_closed_before_the_last_file(digits_run: RunDirectory, tmp_path: Path) -> None:
    files = (tmp_path / f"{i}" for i in range(10_000))
    predictions = open_predictor(digits_run.path).predict(files)
    assert next(predictions).reason is not None
    predictions.close()
    assert len(list(files)) > 9_000
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_unusable_runs_and_batch_sizes_are_refused(digits_run: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run directory"):
        open_predictor(tmp_path)
    with pytest.raises(UserError, match="the batch size must be at least 1, got 0"):
        open_predictor(digits_run.path, batch_size=0)
    copied = RunDirectory(Path(shutil.copytree(digits_run.path, tmp_path / "copied")))
    content = torch.load(copied.best, weights_only=True)
    for tensor in content["state_dict"].values():
        tensor.fill_(torch.nan)
    torch.save(content, copied.best)
    predictor = open_predictor(copied.path)
    with pytest.raises(UserError, match="its training diverged"):
        predictor.probabilities(np.zeros((1, *predictor.trained.size, 1), np.uint8))
