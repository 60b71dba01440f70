"""One image in several colour spaces, channel by channel."""

import numpy as np
from numpy.typing import NDArray

from opsin.insight.samples import grey
from opsin.pictures import Pixels, coloured, rgb

RANGES: dict[str, tuple[float, float]] = {
    "red": (0, 1),
    "green": (0, 1),
    "blue": (0, 1),
    "grey": (0, 1),
    "hue": (0, 1),
    "saturation": (0, 1),
    "value": (0, 1),
    "L": (0, 100),
    "a": (-100, 100),
    "b": (-100, 100),
}
"""Channels of RGB, grey, HSV and CIE L*a*b*, in this order, with the range in which each is shown."""

_PALETTES = {"hue": "hsv", "a": "PiYG_r", "b": "cividis"}


def colour_spaces(image: Pixels) -> dict[str, NDArray[np.float64]]:
    """The channels named in `RANGES`, each (H, W).

    RGB, grey (ITU-R 601 luma) and HSV lie in [0, 1]; a hue of 0 and of 1 is red. L goes from 0 to 100; a is green
    below zero and magenta above, b blue and yellow (CIE 1976, illuminant D65; `skimage.color`).

    Args:
        image: uint8 (H, W, 3), or grey, which has no colours to tell.
    """
    from skimage.color import rgb2hsv, rgb2lab

    pixels = rgb(image)
    channels = [
        *np.moveaxis(pixels / 255, 2, 0),
        grey(pixels),
        *np.moveaxis(rgb2hsv(pixels), 2, 0),
        *np.moveaxis(rgb2lab(pixels), 2, 0),
    ]
    return dict(zip(RANGES, channels, strict=True))


def colour_pictures(image: Pixels) -> dict[str, Pixels]:
    """`colour_spaces` as pictures (H, W, 3): red in tones of red, hues as such, the rest in fitting palettes."""
    pictures = {}
    for name, values in colour_spaces(image).items():
        if name in ("red", "green", "blue"):
            tone = np.zeros((*values.shape, 3), np.uint8)
            tone[..., ("red", "green", "blue").index(name)] = np.rint(values * 255)
            pictures[name] = tone
        else:
            pictures[name] = coloured(values, _PALETTES.get(name, "gray"), *RANGES[name])
    return pictures
