"""The channels of an image in several color spaces."""

import warnings

import numpy as np
from numpy.typing import NDArray

from opsin.interpretability.convolution.sample_images import gray
from opsin.visualization.images import Pixels, colorize, rgb, to_uint8

SPACES: dict[str, dict[str, tuple[float, float]]] = {
    "RGB": {"red": (0, 1), "green": (0, 1), "blue": (0, 1)},
    "ITU-R 601": {"gray": (0, 1)},
    "HSV": {"hue": (0, 1), "saturation": (0, 1), "value": (0, 1)},
    "L*a*b*": {"L": (0, 100), "a": (-100, 100), "b": (-100, 100)},
}
"""The channels of each color space, with the displayed range of each; the gray is that of gray networks."""

RANGES = {channel: limits for channels in SPACES.values() for channel, limits in channels.items()}
"""The channels of all color spaces, in the order of `SPACES`, with the displayed range of each."""

_LIGHTNESS, _VIVID = 65.0, 70.0  # lightness at which a and b are displayed, and their maximum


def color_spaces(image: Pixels) -> dict[str, NDArray[np.float64]]:
    """Return the channels in `RANGES`, each (H, W).

    RGB, gray (ITU-R 601 luma) and HSV lie in [0, 1]; a hue of 0 and of 1 is red. L goes from 0 to 100; a is green
    below zero and magenta above, b blue and yellow (CIE 1976, illuminant D65; `skimage.color`).

    Args:
        image: uint8 (H, W, 3), or gray.
    """
    from skimage.color import rgb2hsv, rgb2lab

    pixels = rgb(image)
    channels = [
        *np.moveaxis(pixels / 255, 2, 0),
        gray(pixels),
        *np.moveaxis(rgb2hsv(pixels), 2, 0),
        *np.moveaxis(rgb2lab(pixels), 2, 0),
    ]
    return dict(zip(RANGES, channels, strict=True))


def color_pictures(image: Pixels) -> dict[str, Pixels]:
    """Return `color_spaces` as images (H, W, 3): RGB channels and hue in color, the rest gray.

    a and b are displayed at a fixed lightness and scaled by the same factor.
    """
    from skimage.color import lab2rgb

    channels = color_spaces(image)
    strongest = max(float(np.quantile(np.abs(channels[name]), 0.995)) for name in "ab")
    pictures = {}
    for name, values in channels.items():
        if name in ("red", "green", "blue"):
            picture = np.zeros((*values.shape, 3))
            picture[..., ("red", "green", "blue").index(name)] = values
            pictures[name] = to_uint8(picture, 0, 1)
        elif name in ("a", "b"):
            lab = np.zeros((*values.shape, 3))
            lab[..., 0] = _LIGHTNESS
            lab[..., "Lab".index(name)] = np.clip(values / max(strongest, 1.0), -1, 1) * _VIVID
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # about colors outside sRGB
                pictures[name] = to_uint8(lab2rgb(lab), 0, 1)
        else:
            pictures[name] = colorize(values, "hsv" if name == "hue" else "gray", *RANGES[name])
    return pictures
