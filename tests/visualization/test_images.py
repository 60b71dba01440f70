"""Scaling, color maps, overlays, grids and encoding of images."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from opsin.visualization.images import (
    PAPER,
    colorize,
    data_uri,
    encode,
    grid,
    overlay_heat,
    resize,
    resize_for_display,
    to_uint8,
)

RAMP = np.linspace(-4, 4, 9)


def test_values_are_scaled_between_their_extremes_or_given_limits() -> None:
    assert to_uint8(RAMP).tolist()[::4] == [0, 128, 255]
    assert to_uint8(RAMP, 0, 4).tolist() == [0, 0, 0, 0, 0, 64, 128, 191, 255]
    assert to_uint8(np.full((2, 2), 7.0)).tolist() == [[0, 0], [0, 0]]  # constant values are black


def test_negative_values_are_blue_positive_red_and_zero_white() -> None:
    blue, white, red = colorize(np.array([[-2.0, 0.0, 2.0]]), "RdBu_r", -2, 2)[0].astype(int)
    assert blue[2] > blue[0] + 50
    assert red[0] > red[2] + 50
    assert white.min() > 240


def test_small_images_are_enlarged_by_whole_factors_and_large_ones_reduced() -> None:
    small = np.arange(4, dtype=np.uint8).reshape(2, 2)
    large = resize_for_display(small, 7)
    assert large.shape == (8, 8)
    assert (large == np.kron(small, np.ones((4, 4), np.uint8))).all()
    assert resize_for_display(np.zeros((300, 150, 3), np.uint8), 100).shape == (100, 50, 3)
    assert resize(np.zeros((4, 4, 1), np.uint8), (2, 6)).shape == (2, 6, 1)


def test_a_heat_map_is_resized_to_the_image() -> None:
    heat = np.zeros((2, 2))
    heat[0, 0] = 1
    picture = overlay_heat(np.full((8, 8), 100, np.uint8), heat)
    assert picture.shape == (8, 8, 3)
    assert picture[0, 0, 0] > picture[0, 0, 2]  # hot is red
    assert picture[7, 7, 2] > picture[7, 7, 0]


def test_a_grid_has_every_image_and_caption() -> None:
    images = [np.full((10, 10), 50 * i, np.uint8) for i in range(5)]
    plain, captioned = (
        grid(images, side=20, columns=2),
        grid(images, side=20, columns=2, captions=list("abcde"), title="t"),
    )
    assert plain.shape[1] == captioned.shape[1] < 60
    assert captioned.shape[0] > plain.shape[0]
    for i in range(5):
        assert (plain == 50 * i).all(axis=2).sum() >= 400
    assert tuple(plain[-10, -10]) == PAPER  # the sixth place is empty
    for wrong in ([], images):
        with pytest.raises(ValueError, match="captions"):
            grid(wrong, captions=["one"])


def test_a_grid_keeps_sizes_and_centers_images_in_their_cells() -> None:
    small, large = np.zeros((4, 8), np.uint8), np.full((20, 30), 9, np.uint8)
    picture = grid([small, large], columns=2, side=None)
    assert picture.shape == (20 + 12, 2 * 30 + 18, 3)
    rows, columns = np.nonzero((picture == 0).all(axis=2))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (14, 17, 17, 24)


def test_long_captions_are_shortened_to_the_cell() -> None:
    picture = grid([np.zeros((40, 40), np.uint8)] * 2, side=40, captions=["a very long caption indeed", "b"])
    assert picture.shape[1] < 120


def test_encoded_bytes_and_data_uris_hold_the_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    assert (np.asarray(Image.open(io.BytesIO(encode(image)))) == image).all()
    kind, data = data_uri(image).split(",", 1)
    assert kind == "data:image/png;base64"
    assert (np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) == image).all()
    assert Image.open(io.BytesIO(encode(image, "JPEG"))).format == "JPEG"
