"""Gabor filters: a wave times a Gaussian, which responds to stripes of one width and direction."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from opsin.errors import UserError

Response = NDArray[np.float64]

LARGEST_SIGMA = 30.0


class Gabor(NamedTuple):
    """The parameters of a Gabor filter.

    Attributes:
        frequency: Waves per pixel, up to 1; frequencies above 0.5 alias.
        theta: Direction of the wave in radians; 0 responds to vertical stripes.
        sigma: Standard deviation of the Gaussian in pixels.
    """

    frequency: float
    theta: float
    sigma: float

    def __str__(self) -> str:
        return f"frequency {self.frequency:.3g}, theta {self.theta:.3g}, sigma {self.sigma:.3g}"


EXAMPLES = (Gabor(0.16, 1.2, 4.0), Gabor(0.31, 0.0, 3.6), Gabor(0.36, 1.6, 1.3))


def parse_gabor(text: str) -> Gabor:
    """Parse `frequency,theta,sigma` such as `0.16,1.2,4.0`; raise `UserError` for anything else."""
    try:
        filter_ = Gabor(*(float(word) for word in text.replace(",", " ").split()))
    except (ValueError, TypeError):
        raise UserError(
            f"a Gabor filter must be frequency,theta,sigma, such as 0.16,1.2,4.0, got {text[:40]!r}"
        ) from None
    _check(filter_)
    return filter_


def _check(filter_: Gabor) -> None:
    if not (0 < filter_.frequency <= 1 and math.isfinite(filter_.theta) and 0.1 <= filter_.sigma <= LARGEST_SIGMA):
        raise UserError(
            f"Gabor filter with {filter_}: the frequency must be above 0 and at most 1 wave per pixel, "
            f"theta an angle in radians, sigma 0.1 to {LARGEST_SIGMA:.0f} pixels"
        )


def gabor(frequency: float, theta: float, sigma: float) -> NDArray[np.complex128]:
    """Return a complex Gabor kernel of `skimage.filters.gabor_kernel`, up to three sigma.

    The real part has a maximum at the center; the imaginary part is shifted by a quarter wave.

    Args:
        frequency: Waves per pixel, 0.01 to 1.
        theta: Radians, 0 to 3.14.
        sigma: Pixels, 0.1 to 30.

    Returns:
        (height, width), both odd.

    Raises:
        UserError: A parameter is out of range.
    """
    from skimage.filters import gabor_kernel

    _check(Gabor(frequency, theta, sigma))
    kernel: NDArray[np.complex128] = gabor_kernel(frequency, theta=theta, sigma_x=sigma, sigma_y=sigma)
    return kernel


def gabor_bank(
    frequencies: Sequence[float] = (0.1, 0.2, 0.4), directions: int = 6
) -> dict[Gabor, NDArray[np.complex128]]:
    """Return kernels of several frequencies in equally spaced directions, ordered by frequency.

    Their bandwidth is one octave, with the same number of waves in each kernel.

    Args:
        frequencies: Waves per pixel.
        directions: Number of directions from 0 to pi.
    """
    octave = math.sqrt(math.log(2) / 2) / math.pi * 3  # sigma times frequency: Petkov and Kruizinga 1997
    filters = [
        Gabor(frequency, math.pi * turn / directions, octave / frequency)
        for frequency in frequencies
        for turn in range(directions)
    ]
    return {filter_: gabor(*filter_) for filter_ in filters}


def magnitude(image: NDArray[Any], kernel: NDArray[Any]) -> Response:
    """Return the magnitude of the response at each pixel, independent of the phase of the wave.

    The image is standardized and convolved with the real and the imaginary part, with wrap-around at the edges; the
    result is the square root of the sum of squares. The kernel is flipped, as in signal processing.

    Args:
        image: (H, W), any numbers; the response to a constant image is zero.
        kernel: Real or complex, with odd sides.

    Returns:
        (H, W).
    """
    values = np.asarray(image, np.float64)
    spread = values.std()
    # By rounding, the deviation of equal numbers can be slightly above zero.
    flat = spread <= 1e-12 * np.abs(values).max()
    standardized = np.zeros_like(values) if flat else (values - values.mean()) / spread
    # The Fourier transform wraps around, and its cost does not depend on the size of the kernel.
    unrolled = np.zeros(values.shape, np.complex128)
    rows, columns = (
        (np.arange(extent) - extent // 2) % side for extent, side in zip(kernel.shape, values.shape, strict=True)
    )
    np.add.at(unrolled, np.ix_(rows, columns), kernel)
    answer: Response = np.abs(np.fft.ifft2(np.fft.fft2(standardized) * np.fft.fft2(unrolled)))
    return answer


def responses(image: NDArray[Any], bank: dict[Gabor, NDArray[np.complex128]]) -> dict[Gabor, Response]:
    """Return the `magnitude` of every kernel of a bank."""
    return {filter_: magnitude(image, kernel) for filter_, kernel in bank.items()}
