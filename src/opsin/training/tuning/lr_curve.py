"""The curve of a range test as a picture, drawn with Pillow.

Not with matplotlib: where that is installed, torchmetrics imports its pyplot into every run.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from opsin.runs.atomic import write_atomically
from opsin.training.tuning.lr_finder import RangeTest
from opsin.visualization.images import encoded

WIDTH, HEIGHT, SCALE = 960, 560, 3
"""Size of the picture, and how many times larger it is drawn, for smooth lines."""
LEFT, TOP, RIGHT, BOTTOM = 80, 56, 24, 64
INK, FAINT, GRID = "#202124", "#9aa0a6", "#e3e5e8"
RAW, SMOOTH, VALLEY, STEEPEST = "#c6d4ec", "#1f5fbf", "#1b7f3b", "#c4501b"

Point = tuple[float, float]


def draw_curve(test: RangeTest, title: str, path: Path) -> None:
    """Draw loss over learning rate, on a logarithmic axis, with the two suggestions marked.

    Args:
        test: Result of the range test.
        title: Model and data, in one line.
        path: The PNG file to write, atomically.
    """
    canvas = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), "white")
    _Plot(ImageDraw.Draw(canvas), test).draw(title)
    write_atomically(path, encoded(np.asarray(canvas.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS))))


class _Plot:
    def __init__(self, pen: ImageDraw.ImageDraw, test: RangeTest) -> None:
        self._pen = pen
        self._test = test
        # The explosion at the end would press the rest flat: the axis shows twice the fall above the start.
        begin, low = test.smooth[0], min(test.smooth)
        fall = max(begin - low, 0.05 * abs(begin), 1e-6)
        self._low, self._high = low - 0.25 * fall, begin + 1.2 * fall
        self._first, self._last = math.log10(test.rates[0]), math.log10(test.rates[-1])

    def draw(self, title: str) -> None:
        """Everything, from the back to the front."""
        self._axes()
        self._line(self._test.losses, RAW, 2)
        self._line(self._test.smooth, SMOOTH, 3)
        rows: Sequence[tuple[str, float, str]] = (
            ("valley (suggested)", self._test.valley, VALLEY),
            ("steepest", self._test.steepest, STEEPEST),
        )
        for row, (name, rate, colour) in enumerate(rows):
            self._mark(rate, colour)
            self._text((LEFT + 16, TOP + 14 + 22 * row), f"{name}: {rate:.2e}", colour, 15)
        self._text((LEFT, 14), title, INK, 18)
        self._text((LEFT + (WIDTH - LEFT - RIGHT) / 2, HEIGHT - 16), "learning rate", INK, 15, "ms")
        self._text((14, TOP - 12), "training loss, smoothed", INK, 13, "ls")

    def _axes(self) -> None:
        for exponent in range(math.ceil(self._first), math.floor(self._last) + 1):
            x = self._x(10.0**exponent)
            self._stroke([(x, TOP), (x, HEIGHT - BOTTOM)], GRID, 1)
            self._text((x, HEIGHT - BOTTOM + 8), f"1e{exponent}", INK, 13, "mt")
        step = _round_step((self._high - self._low) / 8)
        for i in range(math.ceil(self._low / step), math.floor(self._high / step) + 1):
            y = self._y(i * step)
            self._stroke([(LEFT, y), (WIDTH - RIGHT, y)], GRID, 1)
            self._text((LEFT - 8, y), f"{i * step:g}" if step >= 1e-3 else f"{i * step:.2e}", INK, 13, "rm")
        corners = [(LEFT, TOP), (LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, HEIGHT - BOTTOM)]
        self._stroke(corners, FAINT, 1)

    def _line(self, losses: Sequence[float], colour: str, width: int) -> None:
        points = [(self._x(rate), self._y(loss)) for rate, loss in zip(self._test.rates, losses, strict=True)]
        self._stroke(points, colour, width)

    def _mark(self, rate: float, colour: str) -> None:
        x, y = self._x(rate), self._y(self._test.smooth[self._test.rates.index(rate)])
        for top in range(TOP, HEIGHT - BOTTOM, 10):
            self._stroke([(x, top), (x, min(top + 5, HEIGHT - BOTTOM))], colour, 1)
        corners = [SCALE * value for value in (x - 6, y - 6, x + 6, y + 6)]
        self._pen.ellipse(corners, fill=colour, outline="white", width=2 * SCALE)

    def _x(self, rate: float) -> float:
        part = (math.log10(rate) - self._first) / ((self._last - self._first) or 1.0)
        return LEFT + part * (WIDTH - LEFT - RIGHT)

    def _y(self, loss: float) -> float:
        part = (min(max(loss, self._low), self._high) - self._low) / (self._high - self._low)
        return HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)

    def _stroke(self, points: Sequence[Point], colour: str, width: int) -> None:
        scaled = [(SCALE * x, SCALE * y) for x, y in points]
        self._pen.line(scaled, fill=colour, width=width * SCALE, joint="curve")

    def _text(self, place: Point, text: str, colour: str, size: int, anchor: str = "lt") -> None:
        font = ImageFont.load_default(size * SCALE)
        self._pen.text((SCALE * place[0], SCALE * place[1]), text, fill=colour, font=font, anchor=anchor)


def _round_step(step: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is no less than a step."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))
