"""`opsin.load`: a trained model that predicts, embeds and explains images of any kind."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from opsin.api import notebook_html
from opsin.api.caller_state import TorchSettings, caller_state
from opsin.api.finished_run import Run
from opsin.api.image_pixels import OneImage, image_name, is_one_image, read_image
from opsin.api.results import ClassPrediction, Explanation
from opsin.data.types import BadImage
from opsin.errors import UserError, did_you_mean
from opsin.inference.predictor import Predictor, open_predictor
from opsin.interpretability.attribution import Method, attribute
from opsin.interpretability.eval_context import as_input
from opsin.interpretability.faithfulness import compare_with_random
from opsin.models.network import Network
from opsin.runs.home import user_path
from opsin.visualization.images import Pixels, overlay_heat, resize_for_display

R = TypeVar("R")
Outputs = Callable[[Pixels], NDArray[Any]]
Position = tuple[int | None, Any]

SIDE = 240
"""Longer side of an overlay in pixels, about, if the input of the model is smaller."""


def load(
    run: str | PathLike[str],
    overrides: Sequence[str] = (),
    *,
    batch_size: int | None = None,
    raw: bool = False,
    checkpoint: str = "best",
) -> "Model":
    """Load the model of a run, by default with the weights of its best epoch. The images of the run are not needed.

    The process of the caller does not change: random generators, number of threads, logging and environment.

    Args:
        run: A run directory, such as `outputs/latest`.
        overrides: Overrides of its config, such as `trainer.accelerator=cpu`.
        batch_size: Images per batch. None: up to 256, fewer if they are large. With 1, each image of a generator is
            predicted as soon as the next one arrives, and a single image takes the shortest time.
        raw: Return the softmax of the logits without the temperature that the run fitted on val.
        checkpoint: `best`, `last`, or the path of a checkpoint.

    Raises:
        UserError: The run does not exist, or the checkpoint is missing or damaged.

    Example:
        >>> model = opsin.load("outputs/latest")
        >>> model.predict("photo.jpg").label
        'cat'
    """
    with caller_state():
        predictor = open_predictor(user_path(run), overrides, batch_size, raw=raw, checkpoint=checkpoint)
        return Model(predictor, TorchSettings.current())


class Model:
    """A trained model. It predicts exactly as validation does: same preprocessing, weights and precision.

    An image is the path of a file, the bytes of a file, a Pillow image, an array `(H, W)` or `(H, W, C)`, or a tensor
    `(H, W)` or `(C, H, W)`. Arrays and tensors are uint8, or floats in [0, 1]; C is 1 (gray), 3 (RGB), 4 (RGB with
    alpha, which is dropped) or the number of channels of the model. The model resizes and normalizes images itself.

    One image gives one result. A list or another collection gives a list. A generator or another iterator gives an
    iterator, which reads at most two batches ahead.
    """

    def __init__(self, predictor: Predictor, settings: TorchSettings) -> None:
        self._predictor = predictor
        self._settings = settings

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the probabilities."""
        return self._predictor.classes

    @property
    def path(self) -> Path:
        """The run directory."""
        return Path(self._predictor.trained.name)

    @property
    def run(self) -> Run:
        """The run: its metrics, its history and its report."""
        return Run(self.path)

    @property
    def network(self) -> Network:
        """The network in evaluation mode, from images `(N, C, H, W)`, as `to_input` returns them, to logits."""
        return self._predictor.trained.network

    def to_input(self, images: OneImage | Iterable[OneImage]) -> torch.Tensor:
        """Return images as the input of the network: resized and normalized.

        Args:
            images: One image, a collection or an iterator of images, which is consumed.

        Returns:
            `(N, C, H, W)` on the device and in the type of the network; one image gives `(1, C, H, W)`.

        Raises:
            UserError: An image cannot be read; the message names it.
        """
        pixels = [self._read(item) for item in _items(images)]
        return as_input(self.network, self._normalized(np.stack(pixels) if pixels else self._no_images))

    @overload
    def predict(self, images: OneImage) -> ClassPrediction: ...  # type: ignore[overload-overlap]

    @overload
    def predict(self, images: Collection[OneImage]) -> list[ClassPrediction]: ...  # type: ignore[overload-overlap]

    @overload
    def predict(self, images: Iterable[OneImage]) -> Iterator[ClassPrediction]: ...

    def predict(self, images: Any) -> Any:
        """Predict the class of images.

        Args:
            images: One image, a collection or an iterator of images.

        Returns:
            One prediction, a list, or an iterator.

        Raises:
            UserError: An image cannot be read; the message names it. Or the network outputs NaN.

        Example:
            >>> model.predict("photo.jpg").top(3)
            [('cat', 0.98), ('dog', 0.02)]
        """

        def predictions(items: Iterator[Position]) -> Iterator[ClassPrediction]:
            for row in self._rows(items, self._predictor.probabilities):
                yield ClassPrediction.of(row, self.classes)

        return _each(images, predictions)

    def embed(self, images: OneImage | Iterable[OneImage]) -> NDArray[np.float32]:
        """Return the embeddings of images: the input of the first trained layer of the head, averaged over the area.

        Args:
            images: One image, a collection or an iterator of images, which is consumed.

        Returns:
            `(N, D)` float32; one image gives `(1, D)`.

        Raises:
            UserError: An image cannot be read; the message names it.

        Example:
            >>> model.embed(["a.jpg", "b.jpg"]).shape
            (2, 64)
        """
        rows = list(self._rows(_items(images), self._predictor.embeddings))
        return np.stack(rows) if rows else self._predictor.embeddings(self._no_images)

    @overload
    def explain(  # type: ignore[overload-overlap]
        self,
        images: OneImage,
        method: Method = ...,
        *,
        target: str | None = ...,
        stage: str | None = ...,
        check: bool = ...,
    ) -> Explanation: ...

    @overload
    def explain(  # type: ignore[overload-overlap]
        self,
        images: Collection[OneImage],
        method: Method = ...,
        *,
        target: str | None = ...,
        stage: str | None = ...,
        check: bool = ...,
    ) -> list[Explanation]: ...

    @overload
    def explain(
        self,
        images: Iterable[OneImage],
        method: Method = ...,
        *,
        target: str | None = ...,
        stage: str | None = ...,
        check: bool = ...,
    ) -> Iterator[Explanation]: ...

    def explain(
        self,
        images: Any,
        method: Method = "gradcam",
        *,
        target: str | None = None,
        stage: str | None = None,
        check: bool = True,
    ) -> Any:
        """Show which regions of images increase the score of a class.

        Args:
            images: One image, a collection or an iterator of images.
            method: `gradcam`, `cam`, `integrated_gradients` or `occlusion`.
            target: The class to explain. None: the predicted class of each image.
            stage: The stage of the network for `gradcam`. None: the last one with maps.
            check: Compare the map with random maps; it takes about 140 passes through the network.

        Returns:
            One explanation, a list, or an iterator.

        Raises:
            UserError: An image cannot be read, the class or the stage does not exist, or the method does not fit the
                network.

        Example:
            >>> model.explain("photo.jpg").overlay.save("why.png")
        """
        if target is not None and not isinstance(target, str):
            raise UserError(f"target={target!r} is not the name of a class: give text, such as {self.classes[0]!r}")
        if target is not None and target not in self.classes:
            shown = ", ".join(self.classes[:10]) + ", ..." * (len(self.classes) > 10)
            near = did_you_mean(target, self.classes) or f"; its classes are {shown}"
            raise UserError(f"target={target!r} is not a class of the model{near}")

        def explanations(items: Iterator[Position]) -> Iterator[Explanation]:
            for item in items:
                with self._settings.applied():
                    found = self._explanation(self._read(item), method, target, stage, check)
                yield found

        return _each(images, explanations)

    def _explanation(
        self, pixels: Pixels, method: Method, target: str | None, stage: str | None, check: bool
    ) -> Explanation:
        trained = self._predictor.trained
        probabilities = self._predictor.probabilities(pixels[np.newaxis])[0]
        index = int(probabilities.argmax()) if target is None else self.classes.index(target)
        images = self._normalized(pixels[np.newaxis])
        targets = torch.tensor([index])
        heat = attribute(trained.network, images, targets, method, stage)
        large = resize_for_display(pixels, max(SIDE, *pixels.shape[:2]))
        overlay = Image.fromarray(overlay_heat(large, heat[0].numpy()))
        known = self.classes[index], float(probabilities[index]), heat[0].numpy(), overlay
        if not check:
            return Explanation(*known)
        against = compare_with_random(trained.network, images[0], index, heat[0])
        return Explanation(*known, against.is_better, against.statement)

    @property
    def _no_images(self) -> Pixels:
        return np.empty((0, *self._predictor.trained.size, self._predictor.trained.source_channels), np.uint8)

    def _normalized(self, pixels: Pixels) -> torch.Tensor:
        """Return the input `(N, C, H, W)` of the network for pixels `(N, H, W, C)`."""
        return self._predictor.trained.preprocess(torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2))

    def _rows(self, items: Iterator[Position], outputs: Outputs) -> Iterator[NDArray[Any]]:
        """Yield the output of each image, computed with the settings of torch in which the model was loaded."""
        stream = self._predictor.compute(items, self._read, outputs)
        try:
            while True:
                with self._settings.applied():
                    item, found = next(stream, (None, None))
                if item is None or found is None:
                    return
                if isinstance(found, str):
                    raise UserError(f"{image_name(item[1], item[0])}: {found}")
                yield found
        finally:
            stream.close()

    def _read(self, item: Position) -> Pixels:
        position, image = item
        try:
            return read_image(image, self._predictor.trained)
        except (BadImage, UserError) as error:
            raise UserError(f"{image_name(image, position)}: {error}") from None

    def __repr__(self) -> str:
        return f"<opsin model of {self.path}: {len(self.classes)} classes>"

    def _repr_html_(self) -> str:
        trained, result = self._predictor.trained, self.run.result
        height, width = trained.size
        rows = [
            ("model", result.network.name if result.network else type(trained.network).__name__),
            ("run", str(self.path)),
            ("classes", f"{len(self.classes)}: {', '.join(self.classes[:20])}{', …' * (len(self.classes) > 20)}"),
            ("input", f"{trained.channels} x {height} x {width}"),
            ("test accuracy", f"{result.metrics['test/acc']:.2%}" if "test/acc" in result.metrics else "not measured"),
        ]
        return notebook_html.table(rows)


def _each(images: Any, results: Callable[[Iterator[Position]], Iterator[R]]) -> R | list[R] | Iterator[R]:
    """Return one result for one image, a list for a collection, an iterator for an iterator."""
    found = results(_items(images))
    if is_one_image(images):
        return next(found)
    return list(found) if isinstance(images, Collection) else found


def _items(images: Any) -> Iterator[Position]:
    """Yield images with their positions in a collection; the position of one image is None."""
    if is_one_image(images):
        return iter([(None, images)])
    return iter(enumerate(images))
