"""A loaded model predicts the same as validation, for one image, a list and a generator."""

import itertools
import logging
import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

import opsin
from opsin.api.caller_state import TorchSettings
from opsin.api.loaded_model import Model
from opsin.inference.compute_device import ComputeDevice
from opsin.inference.inputs import open_images
from opsin.inference.predictor import Predictor
from opsin.inference.trained_model import TrainedModel, load_trained_model
from opsin.models import Network
from opsin.models.network import sequential
from opsin.runs.directory import RunDirectory
from opsin.runs.predictions import read_predictions


@pytest.fixture(scope="module")
def model(digits_run: RunDirectory) -> Model:
    return opsin.load(digits_run.path)


@pytest.fixture(scope="module")
def pixels(digits_run: RunDirectory) -> np.ndarray:
    """The first 40 validation images, `(40, 28, 28)`."""
    return open_images(load_trained_model(str(digits_run.path))).subset("val").read(np.arange(40))[..., 0]


@pytest.mark.slow
def test_probabilities_are_those_of_the_run(model: Model, digits_run: RunDirectory, pixels: np.ndarray) -> None:
    recorded = read_predictions(digits_run, "val")
    raw = opsin.load(str(digits_run.path), raw=True).predict(list(pixels))
    found = np.array([list(one.probabilities.values()) for one in raw])
    np.testing.assert_allclose(found, recorded.probabilities[:40], atol=1e-6)
    temperature = digits_run.read_result().temperature
    powers = found ** (1 / temperature)
    calibrated = [list(one.probabilities.values()) for one in model.predict(list(pixels))]
    np.testing.assert_allclose(calibrated, powers / powers.sum(1, keepdims=True), atol=1e-6)


def test_predict_accepts_one_image_a_list_and_a_generator(model: Model, pixels: np.ndarray) -> None:
    one = model.predict(pixels[3])
    assert list(one.probabilities) == list(model.classes)
    assert sum(one.probabilities.values()) == pytest.approx(1)
    assert one.probability == max(one.probabilities.values()) == one.probabilities[one.label]
    assert one.top(2)[0] == (one.label, one.probability)
    assert [p for _, p in one.top(20)] == sorted(one.probabilities.values(), reverse=True)
    expected = [model.predict(image) for image in pixels[:5]]
    for several in (list(pixels[:5]), tuple(pixels[:5]), pd.Series(list(pixels[:5]))):
        assert model.predict(several) == expected
    lazy = model.predict(image for image in pixels[:5])
    assert isinstance(lazy, Iterator)
    assert list(lazy) == expected
    assert model.predict([]) == []
    assert list(model.predict(iter([]))) == []


def test_a_generator_without_end_is_consumed_in_batches(digits_run: RunDirectory, pixels: np.ndarray) -> None:
    counter = itertools.count()
    camera = opsin.load(digits_run.path, batch_size=1)
    answers = camera.predict(pixels[next(counter) % 40] for _ in itertools.repeat(None))
    first = [next(answers) for _ in range(5)]
    assert next(counter) <= 6
    answers.close()  # type: ignore[attr-defined]
    assert [one.label for one in first] == [one.label for one in camera.predict(list(pixels[:5]))]


def test_the_message_names_the_image_that_cannot_be_read(model: Model, pixels: np.ndarray, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    Image.fromarray(pixels[0]).save(good)
    bad.write_bytes(good.read_bytes()[:60])
    for call in (model.predict, model.embed, model.explain):
        for images, named in ((bad, "bad.png"), ([good, bad], "bad.png"), ([good, pixels[0] * 1.0], "image 1")):
            with pytest.raises(opsin.UserError, match=named):
                call(images)
    answers = model.predict(iter([good, tmp_path / "absent.png"]))
    with pytest.raises(opsin.UserError, match=r"absent\.png: cannot be read"):
        list(answers)


def test_embeddings_are_the_input_of_the_head(model: Model, digits_run: RunDirectory, pixels: np.ndarray) -> None:
    found = model.embed(list(pixels))
    assert (found.shape, found.dtype) == ((40, 64), np.float32)
    trained = load_trained_model(str(digits_run.path))
    images = trained.preprocess(torch.from_numpy(pixels)[:, None])
    torch.testing.assert_close(model.to_input(list(pixels)), images)
    assert model.to_input(pixels[0]).shape == (1, 1, 28, 28)
    assert model.to_input([]).shape == (0, 1, 28, 28)
    with torch.no_grad():
        expected = model.network.embed(images)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert model.embed(pixels[0]).shape == (1, 64)
    assert model.embed([]).shape == (0, 64)
    np.testing.assert_array_equal(model.embed(iter(pixels)), found)


def test_a_loaded_network_is_in_evaluation_mode() -> None:
    network = sequential(conv=nn.Conv2d(1, 4, 3), norm=nn.BatchNorm2d(4), drop=nn.Dropout())
    head = sequential(flatten=nn.Flatten(), fc=nn.Linear(4 * 6 * 6, 3))
    loaded = Predictor(
        TrainedModel(
            "x", Network("x", {"all": network}, head), "abc", (8, 8), (0.5,), (0.5,), 1, "squash", "bilinear", 1
        ),
        ComputeDevice(torch.device("cpu"), "32-true"),
    )
    assert not any(module.training for module in loaded.trained.network.modules())


@pytest.mark.parametrize(("side", "shown"), [(300, 300), (150, 300), (170, 170)])
def test_an_overlay_is_not_smaller_than_the_input(side: int, shown: int) -> None:
    stages = {"all": sequential(conv=nn.Conv2d(1, 2, 3, stride=9))}
    head = sequential(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(2, 3))
    trained = TrainedModel(
        "x", Network("x", stages, head), "abc", (side, side), (0.5,), (0.5,), 1, "squash", "bilinear", 1
    )
    model = Model(Predictor(trained, ComputeDevice(torch.device("cpu"), "32-true")), TorchSettings.current())
    assert model.explain(np.zeros((side, side), np.uint8), check=False).overlay.size == (shown, shown)


def test_an_explanation_has_a_heatmap_and_a_statement(model: Model, pixels: np.ndarray) -> None:
    found = model.explain(pixels[0])
    predicted = model.predict(pixels[0])
    assert (found.label, found.probability) == (predicted.label, predicted.probability)
    assert (found.heatmap.shape, found.heatmap.dtype) == ((28, 28), np.float32)
    assert 0 <= found.heatmap.min() <= found.heatmap.max() == 1
    assert found.overlay.size == (252, 252)
    assert found.statement.startswith("better than" if found.better_than_random else "no better than")
    assert "<img" in found._repr_html_()
    assert found.statement in found._repr_html_()
    other = model.explain([pixels[0]], "occlusion", target="7", check=False)[0]
    assert (other.label, other.probability) == ("7", predicted.probabilities["7"])
    assert (other.better_than_random, other.statement) == (None, "")
    assert isinstance(model.explain(iter(pixels[:1])), Iterator)
    with pytest.raises(opsin.UserError, match="did you mean 7"):
        model.explain(pixels[0], target="77")
    with pytest.raises(opsin.UserError, match="target=7 is not the name of a class: give text, such as '0'"):
        model.explain(pixels[0], target=7)  # type: ignore[call-overload]
    with pytest.raises(opsin.UserError, match=r"target='cat' is not a class of the model; its classes are 0, 1, .*9$"):
        model.explain(pixels[0], target="cat")
    assert "heatmap" not in repr(other)
    with pytest.raises(opsin.UserError, match="block9"):
        model.explain(pixels[0], stage="block9")


def test_loading_and_predicting_do_not_change_the_process_state(digits_run: RunDirectory, pixels: np.ndarray) -> None:
    logger, before = logging.getLogger("lightning.pytorch"), torch.get_num_threads()
    logger.setLevel(logging.INFO)
    torch.manual_seed(3)
    random.seed(3)
    state = torch.get_rng_state(), random.getstate()
    model = opsin.load(digits_run.path, ["trainer.threads=2", "trainer.deterministic=strict"])
    model.predict(pixels[0])
    model.explain(pixels[0])
    assert (torch.get_rng_state() == state[0]).all()
    assert random.getstate() == state[1]
    assert torch.get_num_threads() == before
    assert not torch.are_deterministic_algorithms_enabled()
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    with model._settings.applied():  # cuBLAS reads it in every call
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    assert logger.level == logging.INFO


def test_the_description_names_the_run_and_wrong_paths_are_refused(
    model: Model, digits_run: RunDirectory, in_tmp: Path
) -> None:
    assert str(digits_run.path) in repr(model)
    assert all(text in model._repr_html_() for text in (str(digits_run.path), "cnn_gap", "1 x 28 x 28"))
    assert model.run.metrics == digits_run.read_result().metrics
    for wrong in ("nowhere", in_tmp, "cnn_gap"):
        with pytest.raises(opsin.UserError, match="run directory"):
            opsin.load(wrong)
