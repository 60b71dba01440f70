"""Color spaces and sample images."""

import colorsys
import socket

import numpy as np
import pytest
from PIL import Image

from opsin.errors import UserError
from opsin.interpretability.convolution.color_spaces import RANGES, color_pictures, color_spaces
from opsin.interpretability.convolution.sample_images import gray, sample, sample_names


def test_known_colors() -> None:
    image = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0]]], np.uint8)
    channels = {name: values[0] for name, values in color_spaces(image).items()}
    assert list(channels) == list(RANGES)
    np.testing.assert_array_equal(channels["green"], [0, 1, 0, 1, 0])
    np.testing.assert_allclose(channels["gray"], [0.299, 0.587, 0.114, 1, 0])
    np.testing.assert_allclose(channels["hue"][:3], [0, 1 / 3, 2 / 3])
    np.testing.assert_allclose(channels["saturation"], [1, 1, 1, 0, 0])
    # CIE L*a*b* of sRGB's primaries under D65.
    np.testing.assert_allclose(channels["L"], [53.24, 87.73, 32.30, 100, 0], atol=0.02)
    np.testing.assert_allclose(channels["a"], [80.09, -86.18, 79.19, 0, 0], atol=0.02)
    np.testing.assert_allclose(channels["b"], [67.20, 83.18, -107.86, 0, 0], atol=0.02)


def test_hsv_matches_colorsys() -> None:
    image = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    channels = color_spaces(image)
    for place in np.ndindex(4, 4):
        ours = [channels[name][place] for name in ("hue", "saturation", "value")]
        np.testing.assert_allclose(ours, colorsys.rgb_to_hsv(*image[place] / 255), atol=1e-12)


def test_a_and_b_are_shown_in_their_colors() -> None:
    image = np.array([[[200, 0, 0], [0, 200, 0], [0, 0, 200], [128, 128, 128]]], np.uint8)
    pictures = color_pictures(image)
    assert all(picture.shape == (1, 4, 3) and picture.dtype == np.uint8 for picture in pictures.values())
    red, green, _, none = pictures["a"][0].astype(int)
    assert red[0] > red[1]  # magenta
    assert green[1] > green[0]
    assert np.ptp(none) <= 1
    blue = pictures["b"][0, 2].astype(int)
    assert blue[2] > blue[0]
    assert pictures["red"][0].tolist() == [[200, 0, 0], [0, 0, 0], [0, 0, 0], [128, 0, 0]]


def test_a_gray_image_has_no_colors() -> None:
    for image in (sample("coins"), sample("coins")[..., np.newaxis]):
        channels = color_spaces(image)
        assert not channels["saturation"].any()
        assert np.abs(channels["a"]).max() < 0.01
        assert color_pictures(image)["hue"].shape == (303, 384, 3)


def test_samples_need_no_internet(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a sample image asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert {"cat", "astronaut", "coins", "brick", "digit_7"} <= set(sample_names())
    for name in sample_names():
        image = sample(name)
        assert image.dtype == np.uint8
        assert image.ndim == 2 or image.shape[2] == 3
        assert image.max() > 128 > image.min()
    assert sample("digit_3").shape == (8, 8)
    with pytest.raises(UserError, match="not a sample image: use one of cat, "):
        sample("../cat")


def test_gray_matches_pillow() -> None:
    cat = sample("cat")
    theirs = np.asarray(Image.fromarray(cat).convert("L"))
    assert np.abs(gray(cat) * 255 - theirs).max() <= 0.51
    np.testing.assert_allclose(gray(cat[..., :1]) * 255, cat[..., 0])
