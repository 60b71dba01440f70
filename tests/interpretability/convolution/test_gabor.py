"""Gabor filters compared with scikit-image and scipy, and applied to stripes."""

import math

import numpy as np
import pytest
from scipy import ndimage
from skimage.filters import gabor_kernel

from opsin.errors import UserError
from opsin.interpretability.convolution.gabor import (
    EXAMPLES,
    Gabor,
    gabor,
    gabor_bank,
    magnitude,
    parse_gabor,
    responses,
)
from opsin.interpretability.convolution.sample_images import gray, sample


@pytest.mark.parametrize("filter_", EXAMPLES)
def test_kernel_and_magnitude_match_scikit_image_and_scipy(filter_: Gabor) -> None:
    kernel = gabor(*filter_)
    theirs = gabor_kernel(filter_.frequency, theta=filter_.theta, sigma_x=filter_.sigma, sigma_y=filter_.sigma)
    np.testing.assert_array_equal(kernel, theirs)
    image = gray(sample("brick"))[:60, :83]
    standardized = (image - image.mean()) / image.std()
    real, imaginary = (ndimage.convolve(standardized, part, mode="wrap") for part in (kernel.real, kernel.imag))
    np.testing.assert_allclose(magnitude(image, kernel), np.hypot(real, imaginary), atol=1e-12)


def test_a_kernel_larger_than_the_image_wraps_around_it() -> None:
    image = np.random.default_rng(0).random((8, 9))
    kernel = gabor(0.16, 1.2, 4.0)
    tiled = np.tile((image - image.mean()) / image.std(), (7, 7))
    parts = [ndimage.convolve(tiled, part, mode="wrap")[24:32, 27:36] for part in (kernel.real, kernel.imag)]
    np.testing.assert_allclose(magnitude(image, kernel), np.hypot(*parts), atol=1e-12)


def test_stripes_activate_the_filter_of_their_frequency_and_direction() -> None:
    bank = gabor_bank((0.125, 0.25), 4)
    rows, columns = np.mgrid[:64, :64]
    for frequency in (0.125, 0.25):
        for theta in (0, math.pi / 2):
            stripes = np.sin(2 * math.pi * frequency * (columns * math.cos(theta) + rows * math.sin(theta)))
            strength = {filter_: answer.mean() for filter_, answer in responses(stripes, bank).items()}
            best = max(strength, key=strength.__getitem__)
            assert (best.frequency, best.theta) == (frequency, pytest.approx(theta))


def test_the_magnitude_does_not_depend_on_the_phase() -> None:
    columns = np.tile(np.arange(64), (64, 1))
    answers = [magnitude(np.sin(2 * math.pi * columns / 8 + phase), gabor(0.125, 0, 6)).mean() for phase in (0, 1, 2)]
    assert np.ptp(answers) < 1e-6 * answers[0]


def test_the_response_does_not_depend_on_brightness_or_contrast() -> None:
    image, kernel = gray(sample("coins"))[:50, :50], gabor(*EXAMPLES[0])
    np.testing.assert_allclose(magnitude(3 * image + 7, kernel), magnitude(image, kernel), atol=1e-10)
    assert not magnitude(np.full((9, 9), 0.4), kernel).any()


def test_a_bank_has_every_frequency_in_every_direction() -> None:
    bank = gabor_bank((0.1, 0.2), 3)
    assert [(f.frequency, round(f.theta, 3)) for f in bank] == [
        (frequency, angle) for frequency in (0.1, 0.2) for angle in (0, 1.047, 2.094)
    ]
    # One octave of bandwidth, the default of scikit-image.
    for filter_, kernel in bank.items():
        np.testing.assert_allclose(kernel, gabor_kernel(filter_.frequency, filter_.theta, bandwidth=1), atol=1e-15)


def test_filters_are_read_or_refused() -> None:
    assert parse_gabor("0.16, 1.2 4") == EXAMPLES[0]
    for text in ("", "0.1", "0.1,1,2,3", "a,b,c"):
        with pytest.raises(UserError, match="frequency,theta,sigma"):
            parse_gabor(text)
    for text in ("0,1,1", "1.1,1,1", "0.1,1,0", "0.1,inf,1", "0.1,1,nan", "0.1,1,1e9"):
        with pytest.raises(UserError, match=r"sigma 0\.1 to 30 pixels"):
            parse_gabor(text)
