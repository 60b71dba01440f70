"""The confusion matrix of validation, as a picture that can be read for two classes and for a hundred."""

from collections.abc import Sequence
from functools import cache

import lightning as L
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from opsin.callbacks.board import EpochPicture
from opsin.loggers import TensorBoard
from opsin.pictures import INK, PAPER, Pixels, coloured

TAG = "confusion/val"
_MATRIX, _MARGIN, _LARGEST, _SMALLEST = 560, 120, 64, 5
_FOR_NUMBERS, _FOR_NAMES = 26, 11


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
    cell = int(np.clip(_MATRIX // number, _SMALLEST, _LARGEST))
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    squares = np.kron(coloured(share, "Blues", 0, 1), np.ones((cell, cell, 1), np.uint8))
    title = f"{confusion.trace():,} of {confusion.sum():,} right"
    height, width = _MARGIN + squares.shape[0] + 8, max(_MARGIN + squares.shape[1] + 8, 330)
    canvas = Image.new("RGB", (width, height), PAPER)
    canvas.paste(Image.fromarray(squares), (_MARGIN, _MARGIN))
    pen = ImageDraw.Draw(canvas)
    pen.text((6, 6), title, fill=INK, font=_font(15))
    pen.text((6, 28), "rows: true\ncolumns: predicted", fill=INK, font=_font(12))
    for i in range(0, number, -(-_FOR_NAMES // cell)):
        middle = _MARGIN + i * cell + cell // 2
        name = _fitted(classes[i], _MARGIN - 12)
        pen.text((_MARGIN - 6, middle), name, fill=INK, font=_font(12), anchor="rm")
        canvas.paste(_upright(name), (middle - 8, 0), _upright(name).convert("L").point(lambda value: 255 - value))
    if cell >= _FOR_NUMBERS:
        _write_numbers(pen, confusion, share, cell)
    return np.asarray(canvas)


def _write_numbers(
    pen: ImageDraw.ImageDraw, confusion: NDArray[np.int64], share: NDArray[np.float64], cell: int
) -> None:
    font = _font(14 if cell > 40 else 11)
    for row, column in zip(*confusion.nonzero(), strict=True):
        count = int(confusion[row, column])
        text = f"{count}" if count < 10_000 else f"{count / 1000:.0f}k"
        place = _MARGIN + column * cell + cell // 2, _MARGIN + row * cell + cell // 2
        pen.text(place, text, fill=PAPER if share[row, column] > 0.5 else INK, font=font, anchor="mm")


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)  # reads its file at every call


@cache
def _fitted(text: str, width: int) -> str:
    shown = text
    while len(shown) > 1 and _font(12).getlength(shown) > width:
        shown = f"{shown[:-2]}…"
    return shown


@cache
def _upright(text: str) -> Image.Image:
    """A line of text that reads upwards and ends above the matrix."""
    line = Image.new("RGB", (_MARGIN, 16), PAPER)
    ImageDraw.Draw(line).text((6, 8), text, fill=INK, font=_font(12), anchor="lm")
    return line.transpose(Image.Transpose.ROTATE_90)
