"""Sample images: photographs and textures of scikit-image, digits of scikit-learn. No download."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from opsin.errors import UserError

PHOTOGRAPHS = ("cat", "astronaut", "coffee", "rocket")
GRAY = ("coins", "brick", "camera", "grass", "gravel", "checkerboard", "text", "page", "moon")
DIGITS = tuple(f"digit_{i}" for i in range(10))


def sample_names() -> tuple[str, ...]:
    """Return the names of all samples: color photographs, gray images, and digits of 8 x 8 pixels."""
    return PHOTOGRAPHS + GRAY + DIGITS


def sample(name: str) -> NDArray[np.uint8]:
    """Return an image by name: (H, W, 3) for color photographs, otherwise (H, W).

    Raises:
        UserError: The name is unknown.
    """
    if name in DIGITS:
        from sklearn.datasets import load_digits

        # The first ten are 0 to 9 in order; scikit-learn's pixels go from 0 to 16.
        pixels: Any = load_digits().images[DIGITS.index(name)]
        digit: NDArray[np.uint8] = np.rint(pixels * (255 / 16)).astype(np.uint8)
        return digit
    if name not in sample_names():
        raise UserError(f"{name!r} is not a sample image: use one of {', '.join(sample_names())}")
    from skimage import data

    image: NDArray[np.uint8] = getattr(data, name)()
    return image


def gray(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return one channel (H, W) in [0, 1]: the ITU-R 601 luma, as for gray networks."""
    values = image.astype(np.float64) / 255
    if values.ndim == 2:
        return values
    weights = np.array([1.0]) if values.shape[2] == 1 else np.array([0.299, 0.587, 0.114])
    one: NDArray[np.float64] = values @ weights
    return one
