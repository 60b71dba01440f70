"""Exported models: every network as ONNX, exact resizing inside the graph, and the check against PyTorch."""

import itertools
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
from backbone_cases import BACKBONES
from network_cases import CASES, build
from PIL import Image
from torch import nn

import opsin.models as models
from opsin.data.cache.image_store import decode_rows, open_store
from opsin.data.datasets import unlabeled_images
from opsin.data.fit import Fit, fit_image
from opsin.data.subset import Subset
from opsin.data.tensor_resize import TensorResize
from opsin.errors import UserError
from opsin.inference.model_export import (
    Agreement,
    GraphFormat,
    _agreement,
    compare,
    export_graph,
    graph_facts,
    inference_of,
)
from opsin.inference.trained_model import TrainedModel
from opsin.interpretability.convolution.sample_images import sample
from opsin.models import Network
from opsin.models.network import class_logits
from opsin.runs.predictions import softmax
from opsin.runs.result import RunResult

RESIZES = [
    (resize, kind)
    for resize, kind in itertools.product(("squash", "crop", "letterbox"), ("bilinear", "bicubic", "nearest"))
    if kind != "nearest" or resize == "squash"
]


def trained_model(network: Network, side: int, channels: int = 3, **more) -> TrainedModel:
    classes = ("cat", "dog", "café")
    facts = {"resize": "squash", "interpolation": "bilinear", "source_channels": channels, "temperature": 1.7}
    mean, std = (0.5, 0.4, 0.3, 0.2)[:channels], (0.2, 0.3, 0.25, 0.2)[:channels]
    if "mean" not in more and channels == 1 and more.get("source_channels") is None:
        mean, std = (0.5,), (0.2,)
    return TrainedModel("run", network.eval(), classes, (side, side), mean, std, channels, **{**facts, **more})


def expected(trained: TrainedModel, images: np.ndarray) -> np.ndarray:
    """The probabilities of PyTorch for images resized by Pillow."""
    fitted = [fit_image(image, trained.size, trained.resize, trained.interpolation) for image in images]
    with torch.no_grad():
        logits = trained.network(trained.preprocess(torch.from_numpy(np.stack(fitted)).permute(0, 3, 1, 2)))
    return torch.softmax(class_logits(logits) / trained.temperature, 1).numpy()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(("resize", "interpolation"), RESIZES)
def test_the_resize_of_the_graph_is_that_of_pillow_bit_for_bit(resize: str, interpolation: str) -> None:
    rng = np.random.default_rng(0)
    sizes = [(1, 1, 7, 9), (9, 7, 9, 7), (60, 90, 20, 30), (33, 300, 64, 64)]
    sizes += [tuple(rng.integers((8, 8, 4, 4), (300, 300, 150, 150)).tolist()) for _ in range(25)]
    for height, width, *size in sizes:
        image = noise(height, width, 3)
        module = TensorResize(tuple(size), resize, interpolation)
        found = module(torch.from_numpy(image).permute(2, 0, 1)[None].double())[0].permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(found, fit_image(image, tuple(size), resize, interpolation), f"{image.shape}")


class Median(nn.Module):
    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.flatten(2).median(2).values


class PerImage(nn.Module):
    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return torch.cat([maps[row : row + 1].mean((2, 3)) for row in range(len(maps))])


@pytest.mark.parametrize(
    ("pooling", "kind", "reason"),
    [
        (Median(), "onnx", "No ONNX function found for <OpOverload(op='aten.median'"),
        (PerImage(), "torch_export", "Constraints violated"),
    ],
)
def test_a_network_that_cannot_be_exported_is_refused_with_the_reason(
    pooling: nn.Module, kind: GraphFormat, reason: str
) -> None:
    network = Network("pooled", {"stem": nn.Conv2d(3, 4, 3)}, nn.Sequential(pooling, nn.Linear(4, 3)))
    with pytest.raises(UserError) as error:
        export_graph(trained_model(network, 8), kind, {})
    assert str(error.value).startswith(f"pooled cannot be exported as {kind}: {reason}")


def test_a_resize_that_cannot_be_expressed_is_refused() -> None:
    with pytest.raises(UserError, match=r"nearest with datamodule.resize=crop cannot be exported"):
        TensorResize((8, 8), "crop", "nearest")


def check(trained: TrainedModel, kind: str = "onnx") -> bytes:
    """Export, and compare with PyTorch on batches and images of several sizes; return the file."""
    content = export_graph(trained, kind, graph_facts(trained, RunResult(seed=3)))
    infer = inference_of(content, kind)
    side = trained.size[0]
    for shape in ((1, side + 9, side + 31), (3, side * 2, side - 7), (4, side, side)):
        images = noise(*shape, trained.source_channels)
        np.testing.assert_allclose(infer(images), expected(trained, images), atol=1e-5)
    return content


EXPORTED = ("cnn_flatten", "strided_cnn", "mini_resnet", "vgg16", "mobilenet_v2", "test_vit", "test_convnext")
"""Networks that hold each kind of layer of all networks: an export takes ten seconds and more."""


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in (*CASES, *BACKBONES) if case.name in EXPORTED], ids=lambda c: c.name)
def test_networks_of_each_kind_are_exported_as_onnx(case) -> None:
    torch.manual_seed(0)
    if hasattr(case, "stages") and hasattr(case, "rgb_only"):
        network, channels = build(case, num_logits=3, image_size=(case.trial,) * 2), case.in_channels
    else:
        network, channels = case.build(num_logits=3), 3
    check(trained_model(network, case.trial, channels))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "torch_export"])
def test_a_file_holds_its_preprocessing_and_facts(kind: str) -> None:
    torch.manual_seed(0)
    network = models.cnn_batchnorm(num_logits=1, in_channels=3, image_size=(32, 32))
    trained = trained_model(network, 32, 3, source_channels=1, resize="crop", interpolation="bicubic")
    trained = TrainedModel(**{**vars(trained), "classes": ("cat", "café")})  # one logit, gray images for RGB
    content = check(trained, kind)
    if kind == "onnx":
        facts = onnxruntime.InferenceSession(content).get_modelmeta().custom_metadata_map
        assert json.loads(facts["classes"]) == ["cat", "café"]
        assert json.loads(facts["temperature"]) == 1.7
        assert json.loads(facts["image_size"]) == [32, 32]
        assert facts["input"].startswith("images: uint8 (N, height, width, 1), upright gray images of any size")
    else:
        files = {"metadata.json": ""}
        import io

        torch.export.load(io.BytesIO(content), extra_files=files)
        assert json.loads(json.loads(files["metadata.json"])["classes"]) == ["cat", "café"]


def test_the_comparison_states_the_difference_to_reduced_photographs(tmp_path: Path) -> None:
    trained = trained_model(models.mlp(num_logits=3, in_channels=3, image_size=(16, 16)), 16)
    (tmp_path / "photos").mkdir()
    for name, size in (("large", (600, 400)), ("small", (30, 20)), ("exact", (16, 16))):
        Image.fromarray(sample("coffee")).resize(size).save(tmp_path / "photos" / f"{name}.jpg")
    files = unlabeled_images(str(tmp_path / "photos"), 3)
    assert files is not None
    subset = Subset.whole(open_store(files, *trained.fit, cache_dir=tmp_path / "stores"))

    def probabilities(pixels: np.ndarray) -> np.ndarray:
        return softmax(pixels.mean(axis=(1, 2)) / 10)

    predictor = SimpleNamespace(trained=trained, probabilities=probabilities)
    found = compare(
        lambda images: probabilities(np.stack([fit_image(i, *trained.fit) for i in images])), predictor, subset
    )
    assert found.sufficient
    assert (found.images, found.difference) == (3, 0)
    assert found.reduced is not None
    assert (found.reduced.images, found.reduced.same_class) == (1, 1)
    assert 0 < found.reduced.difference < 0.1
    assert ". 1 are large JPEGs, which predict decodes at a reduced scale: 1 have the same class there" in str(found)


@pytest.mark.parametrize("broken", [0, 1])
def test_a_file_that_computes_nan_is_not_sufficient(broken: int) -> None:
    expected = softmax(np.array([[3.0, 0.0, 0.0], [4.0, 0.0, 0.0]]))
    found = [expected.copy(), expected.copy()]
    found[broken][:, 0] = np.nan  # also the position of the predicted class
    assert not _agreement(expected, *found).sufficient
    assert not _agreement(expected, *found[::-1]).sufficient


@pytest.mark.parametrize("damage", ["removed", "truncated"])
def test_an_image_that_changed_since_it_was_decoded_is_named(tmp_path: Path, damage: str) -> None:
    trained = trained_model(models.mlp(num_logits=3, in_channels=3, image_size=(16, 16)), 16)
    file = tmp_path / "photos" / "one.png"
    file.parent.mkdir()
    Image.fromarray(sample("coffee")).resize((40, 30)).save(file)
    files = unlabeled_images(str(file.parent), 3)
    assert files is not None
    store = open_store(files, *trained.fit, cache_dir=tmp_path / "stores")
    content = file.read_bytes()
    file.unlink()
    if damage == "truncated":
        file.write_bytes(content[:200])
    read = [
        lambda: compare(lambda images: images, SimpleNamespace(trained=trained), Subset.whole(store)),
        lambda: decode_rows(store, np.array([0]), trained.fit),
    ]
    for reader in read:
        with pytest.raises(UserError, match=r"one\.png "):
            reader()


def test_an_image_that_another_size_or_resize_cannot_have_is_named(tmp_path: Path) -> None:
    file = tmp_path / "photos" / "line.png"
    file.parent.mkdir()
    Image.new("RGB", (30_000, 1)).save(file)
    files = unlabeled_images(str(file.parent), 3)
    assert files is not None
    store = open_store(files, (16, 16), "squash", "bilinear", cache_dir=tmp_path / "stores")
    with pytest.raises(UserError, match=r"line\.png cannot be decoded at 64 x 64 pixels: .* too long and narrow"):
        decode_rows(store, np.array([0]), Fit((64, 64), "crop", "bilinear"))


def test_the_comparison_demands_equal_classes_and_close_probabilities() -> None:
    assert Agreement(10, 10, 1e-5).sufficient
    assert not Agreement(10, 9, 1e-5).sufficient
    assert not Agreement(10, 10, 2e-4).sufficient


def test_onnx_runtime_sends_no_usage_data(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    def session(*_: object, **__: object) -> None:
        seen.append(os.environ.get("ORT_DISABLE_TELEMETRY"))

    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(InferenceSession=session))
    inference_of(b"", "onnx")
    assert seen == ["1"]
