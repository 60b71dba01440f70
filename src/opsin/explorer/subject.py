"""Which network and which image a tab is about: the pickers that Classify and Inside share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from opsin.errors import UserError
from opsin.explorer.networks import Networks, Opened, Pixels
from opsin.explorer.uploads import Upload, drop_zone

Source = Path | int | None
"""An uploaded file, the number of a validation image, or nothing yet."""

ONE_NETWORK: dict[str, Any] = {"concurrency_id": "network", "concurrency_limit": 1, "api_visibility": "private"}
"""How handlers that open networks are run: one at a time, for one network is in memory."""


@dataclass(frozen=True)
class Subject:
    """The components.

    Attributes:
        name: Which network.
        upload: Where an image is dropped.
        source: A state: what is looked at.
        another: A button: another validation image.
    """

    name: gr.Dropdown
    upload: Upload
    source: gr.State
    another: gr.Button


def lay_out(networks: Networks, *, with_classes: bool) -> Subject:
    """Make the components, and let the list of networks be read again whenever the page is opened.

    Args:
        networks: What can be chosen.
        with_classes: Only networks that have classes.
    """
    found = networks.names(with_classes=with_classes)
    name = gr.Dropdown(found, value=found[0] if found else None, label="Run", allow_custom_value=False)
    upload = drop_zone("Image")
    another = gr.Button("A validation image")
    return Subject(name, upload, gr.State(None), another)


def look(opened: Opened, source: Source) -> tuple[Pixels, str]:
    """The image that is looked at, as a network sees it, and what it is.

    Raises:
        UserError: It is no image, or there is none.
    """
    if source is None:
        raise UserError("Drop an image, or take a validation image.")
    if isinstance(source, Path):
        return opened.read(source), "your image"
    pixels, target = opened.validation_image(source)
    truth = opened.classes[target] if target < len(opened.classes) else str(target)
    return pixels, f"validation image {source % len(opened.validation)}, a {truth}"


def next_source(source: Source) -> int:
    """The number of the next validation image; they are stepped through in strides, for classes may lie in order."""
    return 0 if not isinstance(source, int) else source + 97
