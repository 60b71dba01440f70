"""Arrays to pictures: values to bytes, colors, overlays, grids, files."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from opsin.visualization.images import (
    PAPER,
    colored,
    data_uri,
    encoded,
    grid,
    overlaid,
    resized,
    shown,
    stretched,
)

RAMP = np.linspace(-4, 4, 9)


def test_values_are_stretched_between_their_ends_or_given_ones() -> None:
    assert stretched(RAMP).tolist()[::4] == [0, 128, 255]
    assert stretched(RAMP, 0, 4).tolist() == [0, 0, 0, 0, 0, 64, 128, 191, 255]
    assert stretched(np.full((2, 2), 7.0)).tolist() == [[0, 0], [0, 0]]  # nothing to tell apart


def test_signs_are_colors_and_zero_is_white() -> None:
    blue, white, red = colored(np.array([[-2.0, 0.0, 2.0]]), "RdBu_r", -2, 2)[0].astype(int)
    assert blue[2] > blue[0] + 50
    assert red[0] > red[2] + 50
    assert white.min() > 240


def test_small_pictures_are_enlarged_in_whole_squares_and_large_ones_reduced() -> None:
    small = np.arange(4, dtype=np.uint8).reshape(2, 2)
    large = shown(small, 7)
    assert large.shape == (8, 8)
    assert (large == np.kron(small, np.ones((4, 4), np.uint8))).all()
    assert shown(np.zeros((300, 150, 3), np.uint8), 100).shape == (100, 50, 3)
    assert resized(np.zeros((4, 4, 1), np.uint8), (2, 6)).shape == (2, 6, 1)


def test_heat_is_laid_over_at_the_size_of_the_picture() -> None:
    heat = np.zeros((2, 2))
    heat[0, 0] = 1
    picture = overlaid(np.full((8, 8), 100, np.uint8), heat)
    assert picture.shape == (8, 8, 3)
    assert picture[0, 0, 0] > picture[0, 0, 2]  # hot is red
    assert picture[7, 7, 2] > picture[7, 7, 0]
    assert (overlaid(np.full((4, 4), 100, np.uint8), heat, strength=0) == 100).all()


def test_a_grid_holds_every_picture_and_its_words() -> None:
    images = [np.full((10, 10), 50 * i, np.uint8) for i in range(5)]
    plain, told = grid(images, side=20, columns=2), grid(images, side=20, columns=2, captions=list("abcde"), title="t")
    assert plain.shape[1] == told.shape[1] < 60
    assert told.shape[0] > plain.shape[0]
    for i in range(5):
        assert (plain == 50 * i).all(axis=2).sum() >= 400
    assert tuple(plain[-10, -10]) == PAPER  # the sixth place is empty
    for wrong in ([], images):
        with pytest.raises(ValueError, match="captions"):
            grid(wrong, captions=["one"])


def test_long_captions_are_cut_to_their_picture() -> None:
    picture = grid([np.zeros((40, 40), np.uint8)] * 2, side=40, captions=["a very long caption indeed", "b"])
    assert picture.shape[1] < 120


def test_encoded_bytes_and_data_uris_hold_the_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    assert (np.asarray(Image.open(io.BytesIO(encoded(image)))) == image).all()
    kind, data = data_uri(image).split(",", 1)
    assert kind == "data:image/png;base64"
    assert (np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) == image).all()
    assert Image.open(io.BytesIO(encoded(image, "JPEG"))).format == "JPEG"
