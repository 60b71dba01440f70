"""The coordinates of a part of an image are mapped to the upright image."""

import numpy as np
import pytest
from PIL import ExifTags, Image

from opsin.data.orientation import turn_of, turned_box, turned_size, upright


@pytest.mark.parametrize("orientation", [*range(10), "6", None])
def test_a_box_is_mapped_to_the_upright_image(orientation: object) -> None:
    values = np.zeros((7, 10), np.uint8)
    values[:4, :6] = 255
    image = Image.fromarray(values)
    if orientation is not None:
        image.getexif()[ExifTags.Base.Orientation] = orientation
    turned, turn = upright(image), turn_of(image)
    assert turned.size == turned_size(image.size, turn)
    assert (turn is None) == (orientation not in range(2, 9))
    part = np.asarray(turned.crop(turned_box((6, 4), image.size, turn)))
    assert part.size == 24
    assert (part == 255).all()
