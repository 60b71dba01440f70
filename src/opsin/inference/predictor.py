"""Predict class probabilities exactly as in validation: same preprocessing, weights, precision and memory format."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray

from opsin.data.cache.image_store_builder import available_cores
from opsin.data.decode import BadImage
from opsin.errors import UserError
from opsin.inference.opened_run import open_run
from opsin.inference.trained_model import TrainedModel, load_trained_model
from opsin.models.network import class_logits
from opsin.runs.directory import RunDirectory
from opsin.runs.predictions import softmax
from opsin.training import build
from opsin.visualization.images import Pixels

LEAST = 16
"""Smallest batch; blank images fill it and their outputs are dropped.

Libraries use other kernels for small batches: on a CPU the probabilities of a single image differed by 5e-7 from
validation; from 16 images on they were bit-identical, except for 2e-8 with EfficientNet-Lite0 in some cases.
"""

MOST, MOST_PIXELS = 256, 2**21
"""Default limits of a batch: images and pixels."""


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
        trainer: Determines device and precision.
        batch_size: Images per batch. None: up to 256, fewer if they are large.

    Attributes:
        trained: The trained model; its network is on the device and in evaluation mode during predictions.
        classes: Class names, in the order of the probabilities.
        batch_size: Images per batch.

    Raises:
        UserError: The model has no classes, or the batch size is below 1.
    """

    def __init__(self, trained: TrainedModel, trainer: L.Trainer, batch_size: int | None = None) -> None:
        if trained.classes is None:
            raise UserError(f"{trained.name} has no classes: give a run directory, such as outputs/latest")
        if batch_size is not None and batch_size < 1:
            raise UserError(f"--batch-size must be at least 1, got {batch_size}")
        height, width = trained.size
        self.trained = trained
        self.classes = tuple(trained.classes)
        self.batch_size = batch_size or max(LEAST, min(MOST, MOST_PIXELS // (height * width)))
        self._device = trainer.strategy.root_device
        self._precision = trainer.strategy.precision_plugin
        self._network = self._precision.convert_module(trained.network).to(self._device)
        self._dtype = next(self._network.parameters()).dtype

    def probabilities(self, pixels: Pixels) -> NDArray[np.float64]:
        """Return the class probabilities `(N, C)` of images: the softmax of the logits divided by the temperature.

        Args:
            pixels: uint8 `(N, H, W, C)`, from `trained.read` or `InputImages.subset(split).read`.

        Raises:
            ValueError: Size or channels do not match the model.
            UserError: The network outputs NaN, because its training diverged.
        """
        shape = (*self.trained.size, self.trained.source_channels)
        if pixels.dtype != np.uint8 or pixels.shape[1:] != shape:
            raise ValueError(f"{pixels.dtype} {pixels.shape} instead of uint8 (N, {', '.join(map(str, shape))})")
        blocks = [
            self._logits(pixels[start : start + self.batch_size]) for start in range(0, len(pixels), self.batch_size)
        ]
        logits = np.concatenate([np.empty((0, len(self.classes)), np.float32), *blocks])
        if not np.isfinite(logits).all():
            raise UserError(f"{self.trained.name} outputs NaN: its training diverged")
        return softmax(logits, self.trained.temperature)

    def predict(self, paths: Iterable[Path]) -> Iterator[Prediction]:
        """Yield predictions in the order of the files.

        Threads decode the next batch while the network computes. At most two batches are in memory.

        Args:
            paths: Image files; the iterator is consumed lazily.
        """
        names = iter(paths)
        pool = ThreadPoolExecutor(available_cores(), thread_name_prefix="decode")
        waiting: list[tuple[Path, Future[Pixels | str]]] = []
        try:
            while batch := [(path, pool.submit(self._read, path)) for path in islice(names, self.batch_size)]:
                yield from self._predictions(waiting)
                waiting = batch
            yield from self._predictions(waiting)
        finally:
            pool.shutdown(cancel_futures=True)

    def _predictions(self, batch: Sequence[tuple[Path, Future[Pixels | str]]]) -> Iterator[Prediction]:
        read = [(path, future.result()) for path, future in batch]
        pixels = [image for _, image in read if not isinstance(image, str)]
        found = iter(self.probabilities(np.stack(pixels)) if pixels else ())
        for path, image in read:
            yield Prediction(path, reason=image) if isinstance(image, str) else Prediction(path, next(found))

    def _read(self, path: Path) -> Pixels | str:
        """Return the pixels of a file, or the reason why it cannot be decoded."""
        try:
            return self.trained.read(path)
        except BadImage as error:
            return str(error)
        except MemoryError:
            return "too large for this machine's memory"

    def _logits(self, pixels: Pixels) -> NDArray[np.float32]:
        missing = min(LEAST, self.batch_size) - len(pixels)
        if missing > 0:
            pixels = np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), np.uint8)])
        images = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).to(self._device)
        self._network.eval()
        with torch.inference_mode(), self._precision.forward_context():
            logits = self._network(self.trained.preprocess(images).to(self._dtype))
        found: NDArray[np.float32] = class_logits(logits.float()).cpu().numpy()
        return found[: len(found) - max(0, missing)]


def open_predictor(
    run: str | Path, overrides: Sequence[str] = (), batch_size: int | None = None, *, raw: bool = False
) -> Predictor:
    """Load the best checkpoint of a run for predictions; the dataset is not needed.

    Args:
        run: Run directory.
        overrides: Overrides of the config, such as `trainer.accelerator=cpu`.
        batch_size: Images per batch. None: chosen by image size.
        raw: Return the softmax of the logits as they are, without the temperature of the run.

    Returns:
        A predictor with the precision and memory format of the run. The network is not compiled, because compilation
        takes a minute.

    Raises:
        UserError: The run does not exist, has no checkpoint, or has no classes.
    """
    trained = load_trained_model(str(run))
    directory = RunDirectory(Path(trained.name))
    if not directory.config.is_file():
        raise UserError(f"{run} has no classes: give a run directory, such as outputs/latest")
    plan = build.for_evaluation(open_run(directory, overrides).plan)
    plan = replace(plan, trainer=replace(plan.trainer, compile=False))
    trainer = build.evaluator(plan, directory)
    build.prepare(plan, trained.network)
    return Predictor(replace(trained, temperature=1.0) if raw else trained, trainer, batch_size)
