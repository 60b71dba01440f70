"""The confusion matrix of validation, as a picture that can be read for two classes and for a hundred."""

from collections.abc import Sequence
from functools import cache

import lightning as L
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from opsin.training.callbacks.tensorboard_base import EpochPicture
from opsin.training.tensorboard import TensorBoard
from opsin.visualization.images import INK, PAPER, Pixels, colored

TAG = "pictures/confusion"
_MATRIX, _LARGEST, _SMALLEST = 300, 48, 5
"""Sides in pixels: of the matrix, as TensorBoard shows it unscaled, and of a cell at most and at least."""
_CROWDED = 560
"""Of a matrix whose numbers would not fit."""
_FOR_NUMBERS, _FOR_NAMES = 26, 12
"""Sides of cells that hold a number, and beside which there is room for a name."""
_HEAD, _NAME = 46, 120
"""Height of the two lines above all, and the width of a name at most."""


class ConfusionMatrix(EpochPicture):
    """Shows the confusion matrix of val: true classes in rows, shades by the share of the row."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw if it is due; the module has computed its metrics by now."""
        self.validated(trainer, pl_module)

    def draw(self, board: TensorBoard | None, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> None:
        """Draw what the module keeps as `confusion`."""
        confusion, data = getattr(pl_module, "confusion", {}).get("val"), self.images(trainer)
        if board is not None and confusion is not None and data is not None:
            board.log_picture(TAG, confusion_picture(confusion.numpy(), data.source.classes), step)


def confusion_picture(confusion: NDArray[np.int64], classes: Sequence[str]) -> Pixels:
    """A confusion matrix as a picture.

    Numbers stand in the cells as long as they fit, and names beside every row, or beside as many as can be read.

    Args:
        confusion: counts `(C, C)`, true classes in rows.
        classes: their names.
    """
    number = len(classes)
    cell = min(_MATRIX // number, _LARGEST)
    if cell < _FOR_NUMBERS:
        cell = min(max(_CROWDED // number, _SMALLEST), _FOR_NUMBERS - 1)
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    shade = share if cell >= _FOR_NUMBERS else share**0.5  # where there are no numbers, a few mistakes shall be seen
    squares = colored(shade, "Blues", 0, 1).repeat(cell, axis=0).repeat(cell, axis=1)
    names = {i: _fitted(classes[i]) for i in range(0, number, -(-_FOR_NAMES // cell))}
    side = 12 + int(max(_font(12).getlength(name) for name in names.values()))
    origin = side, _HEAD + side
    size = max(side + squares.shape[1] + 8, 240), origin[1] + squares.shape[0] + 8
    canvas = Image.new("RGB", size, PAPER)
    canvas.paste(Image.fromarray(squares), origin)
    pen = ImageDraw.Draw(canvas)
    pen.text((6, 4), f"{confusion.trace():,} of {confusion.sum():,} right", fill=INK, font=_font(15))
    pen.text((6, 25), "rows: true class, columns: predicted", fill=INK, font=_font(12))
    for i, name in names.items():
        middle = i * cell + cell // 2
        pen.text((side - 6, origin[1] + middle), name, fill=INK, font=_font(12), anchor="rm")
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
    font = _font(13 if cell > 32 else 11)
    for row, column in zip(*confusion.nonzero(), strict=True):
        count = int(confusion[row, column])
        text = f"{count}" if count < 10_000 else f"{count / 1000:.0f}k"
        place = origin[0] + column * cell + cell // 2, origin[1] + row * cell + cell // 2
        pen.text(place, text, fill=PAPER if share[row, column] > 0.5 else INK, font=font, anchor="mm")


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)  # reads its file at every call


@cache
def _fitted(name: str) -> str:
    while len(name) > 2 and _font(12).getlength(name) > _NAME:
        name = f"{name[:-2]}…"
    return name


@cache
def _upright(name: str, height: int) -> Image.Image:
    """A name that reads upwards and begins at the lower edge."""
    line = Image.new("RGB", (height, 16), PAPER)
    ImageDraw.Draw(line).text((6, 8), name, fill=INK, font=_font(12), anchor="lm")
    return line.transpose(Image.Transpose.ROTATE_90)
