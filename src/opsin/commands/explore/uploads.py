"""Uploaded images: accepted as bytes, checked for size, and decoded by `opsin.data.decode` only."""

import os
import warnings
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from opsin.data.decode import FORMATS, decode_image
from opsin.data.types import BadImage
from opsin.errors import UserError

MAX_BYTES = 32 * 2**20
"""Maximum size of an upload."""

MAX_PIXELS = 64_000_000
"""Maximum number of pixels of an image: the largest cameras have as many; decoded, this takes 200 MB."""


def drop_zone(label: str) -> tuple[gr.Image, gr.State]:
    """Create a component to drop or paste one image, and a state with the path of the uploaded file.

    Gradio's own preprocessing decodes a file before it can be checked, downloads URLs, and answers a bad file with a
    traceback. It is disabled, and `_uploaded` checks the payload of the browser instead.
    """
    zone = gr.Image(
        label=label,
        type="filepath",
        sources=["upload", "clipboard"],
        buttons=[],
        height=180,
        placeholder=f"Drop an image here, at most {MAX_BYTES // 2**20} MB",
    )
    return zone, gr.State(None)


def on_upload(zone: gr.Image, state: gr.State) -> list[Any]:
    """Copy each upload of a drop zone to a state, and return the events."""
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    return [
        zone.upload(_uploaded, zone, state, preprocess=False, **quiet),
        zone.clear(lambda: None, None, state, **quiet),
    ]


def _uploaded(payload: Any) -> Path | None:
    """Return the uploaded file; None if the payload is anything else or points outside the upload folder."""
    path = payload.get("path") if isinstance(payload, dict) else None
    if not isinstance(path, str) or "\0" in path:
        return None
    file = Path(os.path.realpath(path))
    folder = Path(os.environ["GRADIO_TEMP_DIR"]).resolve()
    return file if file.is_relative_to(folder) and file.is_file() else None


def check_upload(path: Path) -> None:
    """Check that a file is small enough to be decoded.

    Raises:
        UserError: The file has too many bytes or pixels, or is no longer there: Gradio deletes old uploads.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise UserError(f"{path.name}: the upload is no longer there; drop the image again") from None
    if size > MAX_BYTES:
        raise UserError(
            f"{path.name} has {size / 2**20:.0f} MB; the limit is {MAX_BYTES // 2**20} MB. Reduce the image"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about EXIF blocks, and about many pixels, which raise below
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
    except Image.DecompressionBombError:
        width, height = MAX_PIXELS, 3
    except Exception:
        return  # decoding reports the problem
    if width * height > MAX_PIXELS:
        raise UserError(
            f"{path.name} exceeds the limit of {MAX_PIXELS // 10**6} million pixels. Reduce the image: the "
            "network uses far fewer pixels"
        )


def read_upload(path: Path, channels: int = 3) -> NDArray[np.uint8]:
    """Return an uploaded image as uint8 pixels `(H, W, channels)`.

    Raises:
        UserError: The file is not an image, damaged, or too large.
    """
    check_upload(path)
    try:
        return decode_image(path, channels)
    except BadImage as reason:
        raise UserError(f"cannot read {path.name} as an image: {reason}") from None
