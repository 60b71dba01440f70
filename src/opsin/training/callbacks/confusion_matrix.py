"""The confusion matrix of val as an image that is legible for two classes and for a hundred."""

from collections.abc import Sequence
from functools import cache

import lightning as L
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from opsin.training.callbacks.tensorboard_base import EpochPicture
from opsin.training.loggers.tensorboard import TensorBoard
from opsin.visualization.images import INK, PAPER, Pixels, colorize, fit_text, font

TAG = "pictures/confusion"
_MATRIX, _LARGEST, _SMALLEST = 300, 48, 5
"""Sizes in pixels: side of the matrix, largest and smallest side of a cell."""

_CROWDED = 560
"""Side in pixels of a matrix whose cells are too small for numbers."""
_FOR_NUMBERS, _FOR_NAMES = 26, 12
"""Smallest sides in pixels of cells with numbers, and of cells with a name next to them."""
_HEAD, _NAME = 46, 120
"""Height of the two title lines and largest width of a name, in pixels."""


class ConfusionMatrix(EpochPicture):
    """Show the confusion matrix of val: true classes in rows, shaded by the fraction of the row."""

    shows_validation = True

    def draw(self, board: TensorBoard | None, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> None:
        """Draw the matrix that the module has as `confusion`."""
        confusion, data = getattr(pl_module, "confusion", {}).get("val"), self.images(trainer)
        if board is not None and confusion is not None and data is not None:
            board.log_picture(TAG, confusion_picture(confusion.numpy(), data.source.classes), step)


def confusion_picture(confusion: NDArray[np.int64], classes: Sequence[str]) -> Pixels:
    """Return a confusion matrix as an image.

    Cells have numbers if they fit; rows have names, or as many names as are legible.

    Args:
        confusion: Counts `(C, C)`, true classes in rows.
        classes: Names of the classes.
    """
    number = len(classes)
    cell = min(_MATRIX // number, _LARGEST)
    if cell < _FOR_NUMBERS:
        cell = min(max(_CROWDED // number, _SMALLEST), _FOR_NUMBERS - 1)
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    shade = share if cell >= _FOR_NUMBERS else share**0.5  # without numbers, a few errors must be visible
    squares = colorize(shade, "Blues", 0, 1).repeat(cell, axis=0).repeat(cell, axis=1)
    names = {i: fit_text(classes[i], _NAME) for i in range(0, number, -(-_FOR_NAMES // cell))}
    side = 12 + int(max(font(12).getlength(name) for name in names.values()))
    origin = side, _HEAD + side
    size = max(side + squares.shape[1] + 8, 240), origin[1] + squares.shape[0] + 8
    canvas = Image.new("RGB", size, PAPER)
    canvas.paste(Image.fromarray(squares), origin)
    pen = ImageDraw.Draw(canvas)
    pen.text((6, 4), f"{confusion.trace():,} of {confusion.sum():,} correct", fill=INK, font=font(15))
    pen.text((6, 25), "rows: true class, columns: predicted", fill=INK, font=font(12))
    for i, name in names.items():
        middle = i * cell + cell // 2
        pen.text((side - 6, origin[1] + middle), name, fill=INK, font=font(12), anchor="rm")
        canvas.paste(_upright(name, side), (side + middle - 8, _HEAD))
    if cell >= _FOR_NUMBERS:
        _write_numbers(pen, confusion, share, cell, origin)
    return np.asarray(canvas)


def _write_numbers(
    pen: ImageDraw.ImageDraw,
    confusion: NDArray[np.int64],
    share: NDArray[np.float64],
    cell: int,
    origin: tuple[int, int],
) -> None:
    digits = font(13 if cell > 32 else 11)
    for row, column in zip(*confusion.nonzero(), strict=True):
        count = int(confusion[row, column])
        text = f"{count}" if count < 10_000 else f"{count / 1000:.0f}k"
        place = origin[0] + column * cell + cell // 2, origin[1] + row * cell + cell // 2
        pen.text(place, text, fill=PAPER if share[row, column] > 0.5 else INK, font=digits, anchor="mm")


@cache
def _upright(name: str, height: int) -> Image.Image:
    """Return a name as an image, rotated to read upwards from the lower edge."""
    line = Image.new("RGB", (height, 16), PAPER)
    ImageDraw.Draw(line).text((6, 8), name, fill=INK, font=font(12), anchor="lm")
    return line.transpose(Image.Transpose.ROTATE_90)
