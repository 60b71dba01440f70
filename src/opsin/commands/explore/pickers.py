"""Which network and which image a tab is about: the pickers that Classify and Inside share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from opsin.commands.explore.models import Opened, Pixels, RunModels
from opsin.commands.explore.uploads import drop_zone, on_upload
from opsin.errors import UserError

Source = Path | int | None
"""An uploaded file, the number of a validation image, or nothing yet."""

ONE_NETWORK: dict[str, Any] = {"concurrency_id": "network", "concurrency_limit": 1, "api_visibility": "private"}
"""How handlers that open networks are run: one at a time, for one network is in memory."""


class Subject:
    """The components, laid out where it is made.

    Args:
        networks: What can be chosen.
        tab: Where it stands; the list of networks is read again whenever it is opened.
        with_classes: Only networks that have classes.

    Attributes:
        name: Which network.
        source: A state: what is looked at.
    """

    def __init__(self, networks: RunModels, tab: gr.Tab, *, with_classes: bool) -> None:
        self.name = gr.Dropdown([], label="Run", allow_custom_value=True)
        self._upload, self.source = drop_zone("Image")
        self._another = gr.Button("Show a validation image")

        def read_again(name: str | None) -> Any:
            found = networks.names(with_classes=with_classes)
            return gr.Dropdown(found, value=name if name in found else found[0] if found else None)

        tab.select(read_again, self.name, self.name, show_progress="hidden", api_visibility="private")

    def connect(self, handler: Callable[..., Any], more: list[Any], outputs: list[Any]) -> None:
        """Let a handler answer another image, with the network's name, the source, and other inputs."""
        another = self._another.click(
            lambda source: (next_source(source), None),
            self.source,
            [self.source, self._upload],
            api_visibility="private",
            show_progress="hidden",
        )
        sources = [*on_upload(self._upload, self.source), another]
        for source in sources:
            source.then(handler, [self.name, self.source, *more], outputs, **ONE_NETWORK)


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
