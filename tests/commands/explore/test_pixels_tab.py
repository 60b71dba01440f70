"""The numbers of an image in the explorer."""

import re
from pathlib import Path

import html5lib
import numpy as np
import pytest
from PIL import Image

from opsin.commands.explore.pixels_tab import inspect, pixel_at
from opsin.errors import UserError
from opsin.interpretability.convolution.sample_images import sample


def test_a_pixel_with_its_neighbors_and_channels() -> None:
    picture, text, channels, sizes = inspect(None, "coffee", None, 10, 20)
    coffee = sample("coffee")
    assert sizes == (400, 600, 299, 448)
    assert "shape (400, 600, 3), uint8, 720,000 values" in text
    assert re.findall(r"<figcaption>(.*?)</figcaption>", text) == ["red", "green", "blue"]
    numbers = [int(number) for number in re.findall(r">(\d+)</text>", text)]
    np.testing.assert_array_equal(numbers, coffee[8:13, 18:23].transpose(2, 0, 1).ravel())
    assert "<th>row 10, column 20</th>" in text
    assert "<td>red</td><td>uint8</td>" in text
    assert html5lib.HTMLParser(strict=True).parseFragment(text) is not None
    assert picture.ndim == channels.ndim == 3


def test_a_corner_has_fewer_neighbors() -> None:
    text = inspect(None, "digits:0", None, 0, 27)[1]
    assert len(re.findall(r"</text>", text)) == 3 * 3
    with pytest.raises(UserError, match="row 28, column 0 is outside the image"):
        inspect(None, "digits:0", None, 28, 0)


def test_an_upload_is_shown_as_it_is_stored(tmp_path: Path) -> None:
    Image.new("LA", (9, 4), (7, 200)).save(tmp_path / "a.png")
    text = inspect(None, "cat", tmp_path / "a.png", None, 3)[1]
    assert "PNG, mode LA: shape (4, 9, 2), uint8, 72 values" in text
    assert re.findall(r"<figcaption>(.*?)</figcaption>", text) == ["gray", "alpha"]
    (tmp_path / "b.png").write_text("no image")
    with pytest.raises(UserError, match=r"cannot read b\.png"):
        inspect(None, "cat", tmp_path / "b.png", 0, 0)


def test_files_are_not_opened_by_name(tmp_path: Path) -> None:
    Image.new("L", (9, 4)).save(tmp_path / "a.png")
    for name in (str(tmp_path / "a.png"), "/etc/passwd", "1 2; 3 4"):
        with pytest.raises(UserError, match="is not a sample image"):
            inspect(None, name, None, 0, 0)


def test_a_click_is_a_pixel() -> None:
    assert pixel_at([0, 0], (28, 28, 448, 448)) == (0, 0)
    assert pixel_at([447, 440], (28, 28, 448, 448)) == (27, 27)
    assert pixel_at([16, 33], (28, 28, 448, 448)) == (2, 1)
    assert pixel_at([447, 0], (300, 451, 298, 448)) == (0, 449)
    assert pixel_at([9999, -5], (28, 28, 448, 448)) == (0, 27)
