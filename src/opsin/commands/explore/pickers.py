"""The pickers of a model and an image that the tabs Classify and Features share."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from opsin.commands.explore.models import OpenModel, RunModels
from opsin.commands.explore.uploads import drop_zone, on_upload
from opsin.errors import UserError
from opsin.visualization.images import Pixels

ImageChoice = Path | int | None
"""An uploaded file, the number of a validation image (`validation_position`), or None before an image is chosen."""

ONE_AT_A_TIME: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
"""Options of handlers that open models: they run one at a time, because one model is kept in memory."""

STRIDE = 97
"""Least step between the validation images shown, because images are often sorted by class."""


class ModelAndImagePicker:
    """The components that pick a model and an image, placed where the object is created.

    Args:
        models: The models to choose from.
        tab: The tab of the pickers; the list of models is updated whenever the tab is opened.
        with_classes: Offer only models that have classes.

    Attributes:
        name: Dropdown with the name of the model.
        image: State with the chosen image.
    """

    def __init__(self, models: RunModels, tab: gr.Tab, *, with_classes: bool) -> None:
        self.name = gr.Dropdown([], label="Run", allow_custom_value=True)
        self._upload, self.image = drop_zone("Image")
        self._next = gr.Button("Show a validation image")

        def update(name: str | None) -> Any:
            found = models.names(with_classes=with_classes)
            return gr.Dropdown(found, value=name if name in found else found[0] if found else None)

        tab.select(update, self.name, self.name, show_progress="hidden", api_visibility="private")

    def connect(self, handler: Callable[..., Any], more: list[Any], outputs: list[Any]) -> None:
        """Call a handler for every new image, with the model's name, the image choice, and further inputs."""
        clicked = self._next.click(
            lambda image: (next_image(image), None),
            self.image,
            [self.image, self._upload],
            api_visibility="private",
            show_progress="hidden",
        )
        for event in [*on_upload(self._upload, self.image), clicked]:
            event.then(handler, [self.name, self.image, *more], outputs, **ONE_AT_A_TIME)


def selected_image(model: OpenModel, image: ImageChoice) -> tuple[Pixels, str]:
    """Return the pixels of the chosen image as the network sees it, and its description.

    Raises:
        UserError: The file is not an image, or none is chosen.
    """
    if image is None:
        raise UserError("Drop an image, or click Show a validation image.")
    if isinstance(image, Path):
        return model.read(image), "your image"
    position = validation_position(image, len(model.validation))
    pixels, target = model.validation_image(position)
    true = model.classes[target] if target < len(model.classes) else str(target)
    return pixels, f"validation image {position}, class {true}"


def next_image(image: ImageChoice) -> int:
    """Return the number of the next image to show."""
    return 0 if not isinstance(image, int) else image + 1


def validation_position(number: int, images: int) -> int:
    """Return the position of a validation image to show; successive numbers show all images before one repeats.

    Args:
        number: Number of the image to show.
        images: Number of validation images.
    """
    step = next(step for step in itertools.count(STRIDE) if math.gcd(step, images) == 1)
    return number * step % images
