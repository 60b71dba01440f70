"""Images that people drop on the page: taken as bytes, and decoded by nobody but `opsin.data.decode`."""

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

from gradio.events import Dependency

class Upload(gr.Image):  # type: ignore[misc]
    """A place to drop an image, or paste one; gives the path of the file, which may be anything.

    Gradio's own component decodes a file before anybody can look at it, and answers a bad one with a traceback.
    """

    is_template = True  # the page shows it as Gradio's image, and reads its options off the same __init__

    def preprocess(self, payload: Any) -> Path | None:
        """The path of the uploaded file."""
        return None if payload is None or not payload.path else Path(payload.path)

    async def async_move_resource_to_block_cache(self, url_or_file_path: Any) -> str | None:
        """Keep an uploaded file; an address in its place is not fetched."""
        if url_or_file_path is not None and "://" in str(url_or_file_path):
            raise gr.Error("The explorer fetches no addresses: upload the image itself.", print_exception=False)
        kept: str | None = await super().async_move_resource_to_block_cache(url_or_file_path)
        return kept
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block

    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component

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
