"""Images to class probabilities, as validation gave them: the same transform, weights, precision and layout."""

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
"""Images that are computed at once, at the least; blank ones are added and their answers dropped.

Libraries multiply small batches in other ways: on a CPU one image alone gave probabilities that differed by 5e-7 from
those of validation; from 16 on they were the same to the last bit, but for 2e-8 with EfficientNet-Lite0 at times.
"""

MOST, MOST_PIXELS = 256, 2**21
"""Images, and pixels, that are computed at once, unless somebody says otherwise."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What is said of one image file.

    Attributes:
        path: The file.
        probabilities: `(C,)`, adding up to 1; None where it cannot be decoded.
        reason: Why it cannot, in a few words; None where it can.
    """

    path: Path
    probabilities: NDArray[np.float64] | None = None
    reason: str | None = None


class Predictor:
    """A network that has learned, ready to answer.

    Args:
        learned: The network, with classes.
        trainer: Tells device and precision.
        batch_size: Images that are computed at once; None: up to 256, fewer where they are large.

    Attributes:
        learned: As given; its network is on the device, and in evaluation mode whenever it answers.
        classes: Names, in the order of the probabilities.
        batch_size: Images that are computed at once.

    Raises:
        UserError: The network has no classes, or the batch is empty.
    """

    def __init__(self, learned: TrainedModel, trainer: L.Trainer, batch_size: int | None = None) -> None:
        if learned.classes is None:
            raise UserError(
                f"{learned.name} has no classes of its own: predictions need a run directory, such as outputs/latest"
            )
        if batch_size is not None and batch_size < 1:
            raise UserError(f"--batch-size {batch_size}: at least one image is computed at once")
        height, width = learned.size
        self.learned = learned
        self.classes = tuple(learned.classes)
        self.batch_size = batch_size or max(LEAST, min(MOST, MOST_PIXELS // (height * width)))
        self._device = trainer.strategy.root_device
        self._precision = trainer.strategy.precision_plugin
        self._network = self._precision.convert_module(learned.network).to(self._device)
        self._dtype = next(self._network.parameters()).dtype

    def probabilities(self, pixels: Pixels) -> NDArray[np.float64]:
        """Class probabilities `(N, C)` of images.

        Args:
            pixels: uint8 `(N, H, W, C)` as `learned.read` or `Images.subset(split).read` gives them.

        Raises:
            ValueError: They have another size or other channels.
            UserError: The network gives no numbers, because its training has failed.
        """
        shape = (*self.learned.size, self.learned.source_channels)
        if pixels.dtype != np.uint8 or pixels.shape[1:] != shape:
            raise ValueError(f"{pixels.dtype} {pixels.shape} instead of uint8 (N, {', '.join(map(str, shape))})")
        blocks = [
            self._logits(pixels[start : start + self.batch_size]) for start in range(0, len(pixels), self.batch_size)
        ]
        logits = np.concatenate([np.empty((0, len(self.classes)), np.float32), *blocks])
        if not np.isfinite(logits).all():
            raise UserError(f"{self.learned.name} gives NaN instead of probabilities: its training diverged")
        return softmax(logits)

    def predict(self, paths: Iterable[Path]) -> Iterator[Answer]:
        """Answers in the order of the files, as they are ready.

        Threads decode a batch ahead while the network computes; no more than two batches are in memory, however many
        files there are.

        Args:
            paths: Image files; taken one by one as they are needed.
        """
        names = iter(paths)
        pool = ThreadPoolExecutor(available_cores(), thread_name_prefix="decode")
        waiting: list[tuple[Path, Future[Pixels | str]]] = []
        try:
            while batch := [(path, pool.submit(self._read, path)) for path in islice(names, self.batch_size)]:
                yield from self._answers(waiting)
                waiting = batch
            yield from self._answers(waiting)
        finally:
            pool.shutdown(cancel_futures=True)

    def _answers(self, batch: Sequence[tuple[Path, Future[Pixels | str]]]) -> Iterator[Answer]:
        read = [(path, future.result()) for path, future in batch]
        pixels = [image for _, image in read if not isinstance(image, str)]
        found = iter(self.probabilities(np.stack(pixels)) if pixels else ())
        for path, image in read:
            yield Answer(path, reason=image) if isinstance(image, str) else Answer(path, next(found))

    def _read(self, path: Path) -> Pixels | str:
        """The pixels of a file, or why there are none."""
        try:
            return self.learned.read(path)
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
            logits = self._network(self.learned.preprocess(images).to(self._dtype))
        found: NDArray[np.float32] = class_logits(logits.float()).cpu().numpy()
        return found[: len(found) - max(0, missing)]


def open_predictor(run: str | Path, words: Sequence[str] = (), batch_size: int | None = None) -> Predictor:
    """The best checkpoint of a run, ready to answer; its data need not be there any more.

    Args:
        run: A run directory.
        words: Of `train.py`, changing how the run computes, such as `trainer.accelerator=cpu`.
        batch_size: Images that are computed at once; None: as many as is customary for their size.

    Returns:
        A predictor in the run's own precision and memory format; it is not compiled, which takes a minute and pays
        for a training only.

    Raises:
        UserError: There is no such run, it has no checkpoint yet, or no classes.
    """
    learned = load_trained_model(str(run))
    directory = RunDirectory(Path(learned.name))
    if not directory.config.is_file():
        raise UserError(f"{run} has no classes of its own: predictions need a run directory, such as outputs/latest")
    plan = build.for_evaluation(open_run(directory, words).plan)
    plan = replace(plan, trainer=replace(plan.trainer, compile=False))
    trainer = build.evaluator(plan, directory)
    build.prepare(plan, learned.network)
    return Predictor(learned, trainer, batch_size)
