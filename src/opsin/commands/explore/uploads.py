"""Images that people drop on the page: taken as bytes, and decoded by nobody but `opsin.data.decode`."""

import os
import warnings
from pathlib import Path
from typing import Any, Literal

import gradio as gr
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from opsin.data.decode import FORMATS, BadImage, decode_image
from opsin.errors import UserError

MOST_BYTES = 32 * 2**20
"""Of one upload."""

MOST_PIXELS = 64_000_000
"""Of one picture: what the largest cameras of today give, and 200 MB when decoded."""


def drop_zone(label: str) -> tuple[gr.Image, gr.State]:
    """A place to drop one image or paste it, and a state that holds the path of its file, which may be anything.

    Gradio would decode a file before anybody can look at it, fetch what is an address, and answer a bad file with a
    traceback: what the browser says is taken as it comes instead, and looked at by `_uploaded`.
    """
    zone = gr.Image(
        label=label,
        type="filepath",
        sources=["upload", "clipboard"],
        buttons=[],
        height=180,
        placeholder=f"Drop an image here, at most {MOST_BYTES // 2**20} MB",
    )
    return zone, gr.State(None)


def on_upload(zone: gr.Image, state: gr.State) -> list[Any]:
    """Let a state follow a drop zone; gives the events to go on from."""
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    return [
        zone.upload(_uploaded, zone, state, preprocess=False, **quiet),
        zone.clear(lambda: None, None, state, **quiet),
    ]


def _uploaded(payload: Any) -> Path | None:
    """The file that an upload has made; None for anything else, wherever it points."""
    path = payload.get("path") if isinstance(payload, dict) else None
    if not isinstance(path, str) or "\0" in path:
        return None
    file = Path(path).resolve()
    own = Path(os.environ["GRADIO_TEMP_DIR"]).resolve()
    return file if file.is_relative_to(own) and file.is_file() else None


def check_upload(path: Path) -> None:
    """See to it that a file is small enough to be decoded.

    Raises:
        UserError: It is not, in bytes or in pixels.
    """
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise UserError(
            f"{path.name} has {size / 2**20:.0f} MB: at most {MOST_BYTES // 2**20} MB are taken here; make it smaller"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of EXIF blocks, and of many pixels: that is said below
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
    except Image.DecompressionBombError:
        width, height = MOST_PIXELS, 3
    except Exception:
        return  # whoever decodes it says what is wrong
    if width * height > MOST_PIXELS:
        raise UserError(
            f"{path.name} has more than {MOST_PIXELS // 10**6} million pixels: make it smaller, for the network "
            "sees much fewer anyway"
        )


def read_picture(path: Path, channels: Literal[1, 3] = 3) -> NDArray[np.uint8]:
    """An uploaded file as uint8 pixels `(H, W, channels)`.

    Raises:
        UserError: It is no image, damaged, or too large.
    """
    check_upload(path)
    try:
        return decode_image(path, channels)
    except BadImage as reason:
        raise UserError(f"{path.name} cannot be read as an image: {reason}") from None
