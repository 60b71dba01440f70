"""Export a trained model with its preprocessing, temperature and softmax as one graph, and check it on real images."""

import contextlib
import copy
import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from opsin.data.fit import fit_image
from opsin.data.subset import Subset, evenly_spaced
from opsin.data.tensor_resize import TensorResize
from opsin.errors import UserError
from opsin.inference.predictor import Predictor
from opsin.inference.trained_model import TrainedModel
from opsin.models.network import class_logits
from opsin.runs.result import RunResult

GraphFormat = Literal["onnx", "torch_export"]

Infer = Callable[[NDArray[np.uint8]], NDArray[np.floating]]
"""A function from images uint8 `(N, H, W, C)` to probabilities `(N, classes)`."""

TOLERANCE = 1e-4
"""Largest permitted difference between a probability of the file and the same probability of PyTorch."""

MAX_CHECKED = 100
"""Maximum number of validation images, evenly spaced, for the check of an exported file."""

INPUT, OUTPUT = "images", "probabilities"


class EndToEnd(nn.Module):
    """A trained model from decoded images of any size to class probabilities.

    Args:
        trained: The trained model; its network is copied.
    """

    def __init__(self, trained: TrainedModel) -> None:
        super().__init__()
        self.fit = TensorResize(trained.size, trained.resize, trained.interpolation)
        self.network = copy.deepcopy(trained.network).float().cpu().eval()
        self.network.auxiliary = None  # it is used in training only
        self.channels = trained.channels
        self.temperature = trained.temperature
        shift, scale = trained.preprocess.constants(255.0)
        self.register_buffer("shift", shift.view(1, -1, 1, 1))
        self.register_buffer("scale", scale.view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return probabilities `(N, classes)`, float32.

        Args:
            images: uint8 `(N, H, W, C)`, with the channels that the model decodes files to.
        """
        pixels = self.fit(images.permute(0, 3, 1, 2).double()).float()
        if pixels.shape[1] != self.channels:
            pixels = pixels.expand(-1, self.channels, -1, -1)
        logits = class_logits(self.network(pixels * self.scale + self.shift))
        return torch.softmax(logits / self.temperature, dim=1)


def facts(trained: TrainedModel, result: RunResult) -> dict[str, str]:
    """Return the metadata of an exported file of weights: text by name, other values as JSON."""
    values: dict[str, Any] = {
        "classes": list(trained.classes or ()),
        "image_size": trained.size,
        "mean": trained.mean,
        "std": trained.std,
        "channels": trained.channels,
        "source_channels": trained.source_channels,
        "resize": trained.resize,
        "interpolation": trained.interpolation,
        "temperature": trained.temperature,
        "network": trained.network.name,
        "seed": result.seed,
        "commit": result.commit,
    }
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}


def graph_facts(trained: TrainedModel, result: RunResult) -> dict[str, str]:
    """Return the metadata of an exported graph, with the contract of its input and output."""
    kind = {1: "gray", 3: "RGB"}.get(trained.source_channels, f"{trained.source_channels}-channel")
    contract = {
        "input": f"{INPUT}: uint8 (N, height, width, {trained.source_channels}), upright {kind} images of any size; "
        "the file resizes and normalizes them",
        "output": f"{OUTPUT}: float32 (N, {len(trained.classes or ())}), in the order of classes",
    }
    return {**facts(trained, result), **contract}


def export_graph(trained: TrainedModel, kind: GraphFormat, metadata: dict[str, str]) -> bytes:
    """Return the content of a file with the whole model.

    Args:
        trained: The trained model.
        kind: The format.
        metadata: Text by name, saved in the file.

    Raises:
        UserError: The network cannot be exported.
    """
    model = EndToEnd(trained).eval()
    height, width = trained.size
    example = torch.zeros(2, height + 3, width + 5, trained.source_channels, dtype=torch.uint8)
    dynamic = {"images": dict.fromkeys((0, 1, 2), torch.export.Dim.DYNAMIC)}
    try:
        with _quiet(), torch.no_grad():
            program = torch.export.export(model, (example,), dynamic_shapes=dynamic)
            return _onnx(program, metadata) if kind == "onnx" else _torch_export(program, metadata)
    except Exception as error:  # the exporters raise exceptions of many kinds
        cause: BaseException = error
        while cause.__cause__ is not None:  # the exporter of ONNX puts advice for developers around it
            cause = cause.__cause__
        reason = str(cause).strip().splitlines() or [type(cause).__name__]
        raise UserError(
            f"{trained.network.name} cannot be exported as {kind}: {reason[0]}; "
            "--format safetensors exports the weights of every network"
        ) from error


def _onnx(program: torch.export.ExportedProgram, metadata: dict[str, str]) -> bytes:
    exported = torch.onnx.export(program, dynamo=True, input_names=[INPUT], output_names=[OUTPUT], verbose=False)
    assert exported is not None
    graph = exported.model_proto
    for name, value in metadata.items():
        graph.metadata_props.add(key=name, value=value)
    content: bytes = graph.SerializeToString()
    return content


def _torch_export(program: torch.export.ExportedProgram, metadata: dict[str, str]) -> bytes:
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={"metadata.json": json.dumps(metadata)})
    return content.getvalue()


def inference_of(content: bytes, kind: GraphFormat) -> Infer:
    """Return the function that an exported file computes, run by ONNX Runtime or PyTorch."""
    if kind == "onnx":
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reads it when it is imported
        import onnxruntime

        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        return lambda images: session.run([OUTPUT], {INPUT: images})[0]
    with _quiet():
        module = torch.export.load(io.BytesIO(content)).module()

    def infer(images: NDArray[np.uint8]) -> NDArray[np.floating]:
        with torch.no_grad():
            found: NDArray[np.floating] = module(torch.tensor(images)).numpy()
        return found

    return infer


@dataclass(frozen=True)
class Agreement:
    """Comparison of an exported file with PyTorch.

    Attributes:
        images: Number of images.
        same_class: Number of images with the same predicted class.
        difference: Largest difference of a probability.
        reduced: Comparison of predictions for large JPEGs, decoded at full scale as for the file, with those of
            `opsin predict`, which decodes them at a reduced scale; None if there are none.
    """

    images: int
    same_class: int
    difference: float
    reduced: "Agreement | None" = None

    @property
    def sufficient(self) -> bool:
        """Whether all predicted classes are equal and all probabilities agree within `TOLERANCE`."""
        return self.same_class == self.images and self.difference <= TOLERANCE

    def __str__(self) -> str:
        text = (
            f"{self.same_class} of {self.images} validation images have the class that PyTorch predicts; "
            f"probabilities differ by at most {self.difference:.1e}"
        )
        if self.reduced is None:
            return text
        return (
            f"{text}. {self.reduced.images} are large JPEGs, which predict decodes at a reduced scale: "
            f"{self.reduced.same_class} have the same class there; probabilities differ by at most "
            f"{self.reduced.difference:.1e}"
        )


def compare(infer: Infer, predictor: Predictor, subset: Subset) -> Agreement:
    """Compare an exported file with PyTorch on images of a split: one by one in their own size, and as one batch.

    The file receives images at full scale, because other programs decode them so.

    Args:
        infer: The function of the file.
        predictor: The run in float32 on the CPU.
        subset: The images.

    Raises:
        UserError: An image cannot be decoded at full scale.
    """
    trained = predictor.trained
    positions = evenly_spaced(len(subset), MAX_CHECKED)
    fitted, predicted, found = [], [], []
    for position in positions.tolist():
        store, row = subset.find(position)
        image = store.read_source(row)
        fitted.append(fit_image(image, *trained.fit))
        predicted.append(store.read_source(row, trained.fit))
        found.append(infer(np.ascontiguousarray(image)[np.newaxis])[0])
    expected = predictor.probabilities(np.stack(fitted))
    agreement = _agreement(expected, np.stack(found), infer(np.stack(fitted)))
    reduced = [at for at, pixels in enumerate(predicted) if not np.array_equal(pixels, fitted[at])]
    if not reduced:
        return agreement
    others = predictor.probabilities(np.stack([predicted[at] for at in reduced]))
    return replace(agreement, reduced=_agreement(expected[reduced], others))


def _agreement(expected: NDArray[np.floating], *found: NDArray[np.floating]) -> Agreement:
    """Compare probabilities `(N, classes)`, which may be computed in several ways."""
    same = np.logical_and.reduce([values.argmax(1) == expected.argmax(1) for values in found])
    difference = float(np.max([np.abs(values - expected).max() for values in found]))  # NaN if any value is NaN
    return Agreement(len(expected), int(same.sum()), difference)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the messages of the exporters, which are for their developers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
