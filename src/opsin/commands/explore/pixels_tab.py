"""The numbers of an image: a pixel with its neighbors, the facts of each channel, and the channels as images."""

import html
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from opsin.commands.explore.image_picker import connect, image_picker
from opsin.commands.explore.outputs import error_area, picture_area, shows_errors
from opsin.commands.explore.uploads import check_upload
from opsin.data.types import BadImage
from opsin.errors import UserError
from opsin.interpretability.convolution.figures import BOX, color_picture
from opsin.interpretability.convolution.inspection import (
    InspectedImage,
    channel_table,
    inspect_array,
    inspect_file,
    summary,
)
from opsin.interpretability.convolution.named_image import named_picture
from opsin.visualization.images import Pixels, fit, resize_for_display, rgb
from opsin.visualization.matrix_svg import Window, matrix

SIDE = 448
REACH = 2
"""Pixels around the chosen one whose numbers are drawn."""


def inspect(
    data_dir: str | None, name: str, upload: Path | None, row: int | None, column: int | None
) -> tuple[Pixels, str, Pixels, tuple[int, ...]]:
    """Return an image with a box around a pixel, its numbers, its channels, and the sizes for `pixel_at`.

    Args:
        data_dir: The folder of the datasets; None for the default.
        name: Name of the image, see `named_picture`.
        upload: An uploaded file, which is used instead.
        row: Row of the pixel; None while it is edited.
        column: Column of the pixel.

    Raises:
        UserError: There is no such image or pixel.
    """
    image = _opened(name, upload, data_dir)
    pixel = row or 0, column or 0
    table = channel_table(image, pixel)
    colors = image.colors
    assert colors is not None  # only typed numbers have none
    text = (
        f'<p class="caption">{html.escape(summary(image))}</p>'
        f'<div class="drawings neighbors">{_neighbors(image, *pixel)}</div>{_table(table)}'
    )
    channels = color_picture(fit(colors, SIDE) if max(colors.shape) > SIDE else colors)
    picture = _marked(colors, *pixel)
    return picture, text, channels, (*colors.shape[:2], *picture.shape[:2])


def _opened(name: str, upload: Path | None, data_dir: str | None) -> InspectedImage:
    if upload is None:
        return inspect_array(named_picture(name, data_dir))
    check_upload(upload)
    try:
        return inspect_file(upload)
    except BadImage as reason:
        raise UserError(f"cannot read {upload.name} as an image: {reason}") from None


def _neighbors(image: InspectedImage, row: int, column: int) -> str:
    """Return the stored numbers around a pixel, one matrix per channel."""
    top, left = max(row - REACH, 0), max(column - REACH, 0)
    part = image.pixels[top : row + REACH + 1, left : column + REACH + 1].astype(np.float64)
    part = part[..., np.newaxis] if part.ndim == 2 else part
    white = float(image.pixels.max()) if image.pixels.dtype != np.uint8 else 255.0
    window = Window(((row - top, column - left),))
    return "".join(
        matrix(part[..., i], band, limits=(0.0, white or 1.0), window=window) for i, band in enumerate(image.bands)
    )


def _table(table: list[tuple[str, ...]]) -> str:
    head, *rows = ([html.escape(cell) for cell in row] for row in table)
    columns = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="facts"><table><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table></div>'


def _marked(colors: NDArray[np.uint8], row: int, column: int) -> Pixels:
    """Return an image for display, with a box around a pixel and its neighbors."""
    shown = Image.fromarray(rgb(resize_for_display(colors, SIDE)))
    scale = shown.height / colors.shape[0]
    half = max((REACH + 0.5) * scale, 5)
    middle = (column + 0.5) * scale, (row + 0.5) * scale
    box = [middle[0] - half, middle[1] - half, middle[0] + half, middle[1] + half]
    ImageDraw.Draw(shown).rectangle(box, outline=BOX, width=2)
    return np.asarray(shown)


def pixel_at(position: Any, sizes: tuple[int, int, int, int]) -> tuple[int, int]:
    """Return row and column of the pixel at a position of the displayed image.

    Args:
        position: x and y in the displayed image, as the browser sends them.
        sizes: Height and width of the image, then those of the displayed image.
    """
    height, width, shown_height, shown_width = sizes
    x, y = (int(value) for value in position)
    return min(max(y * height // shown_height, 0), height - 1), min(max(x * width // shown_width, 0), width - 1)


def build(data_dir: str | None) -> None:
    """Build the tab.

    Args:
        data_dir: The folder of the datasets; None for the default.
    """
    with gr.Row():
        with gr.Column(scale=1, min_width=260):
            name, zone, upload = image_picker()
            with gr.Row():
                row = gr.Number(0, label="Row", minimum=0, precision=0, min_width=80)
                column = gr.Number(0, label="Column", minimum=0, precision=0, min_width=80)
        with gr.Column(scale=2, min_width=280):
            error = error_area()
            picture = gr.Image(
                label="Click a pixel", format="png", buttons=[], interactive=False, elem_classes="picture"
            )
            text = gr.HTML(js_on_load=None)
            channels = picture_area("Channels")
    sizes = gr.State((1, 1, 1, 1))

    @shows_errors(None, None, None, gr.skip())
    def handler(*values: Any) -> tuple[Any, ...]:
        return inspect(data_dir, *values)

    def click(shapes: tuple[int, int, int, int], event: gr.SelectData) -> tuple[int, int]:
        return pixel_at(event.index, shapes)

    connect(handler, zone, [name, upload, row, column], [error, picture, text, channels, sizes])
    picture.select(click, sizes, [row, column], show_progress="hidden", api_visibility="private")
