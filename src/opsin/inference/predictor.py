"""Predict class probabilities exactly as in validation: same preprocessing, weights, precision and memory format."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opsin.data.options import default_eval_batch_size
from opsin.data.types import BadImage
from opsin.errors import UserError
from opsin.inference.compute_device import ComputeDevice, compute_device
from opsin.inference.opened_network import open_network
from opsin.inference.trained_model import TrainedModel, load_trained_model
from opsin.models.network import class_logits
from opsin.runs.cpu_cores import available_cores
from opsin.runs.directory import RunDirectory
from opsin.runs.predictions import have_probabilities, softmax
from opsin.training.network_building import for_evaluation, prepare
from opsin.training.precision_timing import evaluation_precision
from opsin.visualization.images import Pixels

T = TypeVar("T")

LEAST = 16
"""Smallest batch; blank images fill it and their outputs are dropped.

Libraries use other kernels for small batches: on a CPU the probabilities of a single image differed by 5e-7 from
validation; from 16 images on they were bit-identical, except for 2e-8 with EfficientNet-Lite0 in some cases.
"""


@dataclass(frozen=True, eq=False)
class Prediction:
    """Prediction for one image file.

    Attributes:
        path: The file.
        probabilities: `(C,)`, sum 1; None if the file cannot be decoded.
        reason: Why the file cannot be decoded; None if it can.
    """

    path: Path
    probabilities: NDArray[np.float64] | None = None
    reason: str | None = None


class Predictor:
    """A trained model with its classes, device and precision.

    Args:
        trained: The trained model; it must have classes.
        device: Device and precision.
        batch_size: Images per batch. None: up to 256, fewer if they are large.

    Attributes:
        trained: The trained model; its network is on the device and in evaluation mode.
        classes: Class names, in the order of the probabilities.
        batch_size: Images per batch.

    Raises:
        UserError: The model has no classes, or the batch size is below 1.
    """

    def __init__(self, trained: TrainedModel, device: ComputeDevice, batch_size: int | None = None) -> None:
        if trained.classes is None:
            raise UserError(f"{trained.name} has no classes: give a run directory, such as outputs/latest")
        if batch_size is not None and batch_size < 1:
            raise UserError(f"the batch size must be at least 1, got {batch_size}")
        self.trained = trained
        self.classes = tuple(trained.classes)
        self._device = device
        on_cpu = device.device.type == "cpu"  # activations are in the memory of the process
        self.batch_size = batch_size or max(LEAST, default_eval_batch_size(trained.size) // (2 if on_cpu else 1))
        self._network = device.convert(trained.network).eval()
        self._dtype = next(self._network.parameters()).dtype

    def probabilities(self, pixels: Pixels) -> NDArray[np.float64]:
        """Return the class probabilities `(N, C)` of images: the softmax of the logits divided by the temperature.

        Args:
            pixels: uint8 `(N, H, W, C)`, from `trained.read` or `InputImages.subset(split).read`.

        Raises:
            ValueError: Size or channels do not match the model.
            UserError: The network outputs NaN, because its training diverged.
        """
        logits = self._outputs(pixels, self._logits)
        self._refuse_divergence(have_probabilities(logits))
        return softmax(logits, self.trained.temperature)

    def embeddings(self, pixels: Pixels) -> NDArray[np.float32]:
        """Return the embeddings `(N, D)` of images, the input of the first trained layer of the head.

        Args:
            pixels: uint8 `(N, H, W, C)`, as for `probabilities`.

        Raises:
            ValueError: Size or channels do not match the model.
            UserError: The network outputs NaN, because its training diverged.
        """
        found = self._outputs(pixels, self.trained.network.embed)
        self._refuse_divergence(bool(np.isfinite(found).all()))
        return found

    def predict(self, paths: Iterable[Path]) -> Iterator[Prediction]:
        """Yield predictions in the order of the files.

        Threads decode the next batch while the network computes. At most two batches are in memory.

        Args:
            paths: Image files; the iterator is consumed lazily.
        """
        for path, found in self.compute(paths, self.trained.read, self.probabilities):
            yield Prediction(path, reason=found) if isinstance(found, str) else Prediction(path, found)

    def compute(
        self,
        images: Iterable[T],
        read: Callable[[T], Pixels],
        outputs: Callable[[Pixels], NDArray[Any]],
    ) -> Generator[tuple[T, NDArray[Any] | str], None, None]:
        """Yield each image with its output, a row of `outputs`, or with the reason why it cannot be decoded.

        Threads read the next batch while the network computes. At most two batches are in memory.

        Args:
            images: Images of any kind; the iterator is consumed lazily.
            read: Function that returns the pixels of an image `(H, W, C)`, at the size of the model. It may raise
                `BadImage`.
            outputs: Function of a batch of pixels, such as `probabilities`.
        """
        rest = iter(images)
        pool = ThreadPoolExecutor(available_cores(), thread_name_prefix="decode")
        waiting: list[tuple[T, Future[Pixels | str]]] = []
        try:
            while batch := [(image, pool.submit(_read, read, image)) for image in islice(rest, self.batch_size)]:
                yield from _rows(waiting, outputs)
                waiting = batch
            yield from _rows(waiting, outputs)
        finally:
            pool.shutdown(cancel_futures=True)

    def _logits(self, images: Tensor) -> Tensor:
        return class_logits(self._network(images).float())

    def _outputs(self, pixels: Pixels, function: Callable[[Tensor], Tensor]) -> NDArray[np.float32]:
        """Return the outputs `(N, D)` of a function of normalized images, computed in batches.

        Raises:
            ValueError: Size or channels do not match the model.
        """
        shape = (*self.trained.size, self.trained.source_channels)
        if pixels.dtype != np.uint8 or pixels.shape[1:] != shape:
            raise ValueError(f"{pixels.dtype} {pixels.shape} instead of uint8 (N, {', '.join(map(str, shape))})")
        starts = range(0, max(1, len(pixels)), self.batch_size)  # without images, one blank batch gives the shape
        return np.concatenate([self._batch(pixels[i : i + self.batch_size], function) for i in starts])

    def _refuse_divergence(self, finite: bool) -> None:
        if not finite:
            raise UserError(f"{self.trained.name} outputs NaN: its training diverged")

    def _batch(self, pixels: Pixels, function: Callable[[Tensor], Tensor]) -> NDArray[np.float32]:
        missing = min(LEAST, self.batch_size) - len(pixels)
        if missing > 0:
            pixels = np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), np.uint8)])
        images = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).to(self._device.device)
        self._network.eval()
        with torch.inference_mode(), self._device.forward_context():
            outputs = function(self.trained.preprocess(images).to(self._dtype))
        found: NDArray[np.float32] = outputs.float().cpu().numpy()
        return found[: len(found) - max(0, missing)]


def _read(read: Callable[[T], Pixels], image: T) -> Pixels | str:
    """Return the pixels of an image, or the reason why it cannot be decoded."""
    try:
        return read(image)
    except BadImage as error:
        return str(error)
    except MemoryError:
        return "too large for this machine's memory"


def _rows(
    batch: Sequence[tuple[T, Future[Pixels | str]]], outputs: Callable[[Pixels], NDArray[Any]]
) -> Iterator[tuple[T, NDArray[Any] | str]]:
    read = [(image, future.result()) for image, future in batch]
    pixels = [found for _, found in read if not isinstance(found, str)]
    rows = iter(outputs(np.stack(pixels)) if pixels else ())
    for image, found in read:
        yield image, found if isinstance(found, str) else next(rows)


def open_predictor(
    run: str | Path,
    overrides: Sequence[str] = (),
    batch_size: int | None = None,
    *,
    raw: bool = False,
    checkpoint: str = "best",
) -> Predictor:
    """Load a checkpoint of a run for predictions; the dataset is not needed.

    Args:
        run: Run directory.
        overrides: Overrides of the config, such as `trainer.accelerator=cpu`.
        batch_size: Images per batch. None: chosen by image size.
        raw: Return the softmax of the logits without the temperature of the run.
        checkpoint: `best`, `last`, or the path of a checkpoint.

    Returns:
        A predictor with the precision and memory format of the run. The network is not compiled, because compilation
        takes a minute.

    Raises:
        UserError: The run does not exist, has no checkpoint, or has no classes.
    """
    trained = load_trained_model(str(run), checkpoint=checkpoint)
    directory = RunDirectory(Path(trained.name))
    if not directory.config.is_file():
        raise UserError(f"{run} has no classes: give a run directory, such as outputs/latest")
    opened = open_network(directory, overrides)
    opened.warn_if_emulated()
    plan = for_evaluation(opened.plan)
    shape = (trained.channels, *trained.size)
    options = evaluation_precision(replace(plan.trainer, compile=False), trained.network, shape)
    plan = replace(plan, trainer=options)
    device = compute_device(plan.trainer)
    prepare(plan, trained.network)
    return Predictor(replace(trained, temperature=1.0) if raw else trained, device, batch_size)
