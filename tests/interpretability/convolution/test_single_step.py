"""Single steps of convolution and pooling."""

import numpy as np
import pytest

from opsin.errors import UserError
from opsin.interpretability.convolution.convolution import KERNELS, POOLINGS, convolve, pool
from opsin.interpretability.convolution.single_step import pool_step_at, step_at


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(17, 13))


def test_every_step_equals_a_value_of_the_output(image: np.ndarray) -> None:
    kernel = KERNELS["vertical"]
    for words in ({}, {"stride": 2, "padding": 2}, {"padding": "same", "dilation": 2}):
        output = convolve(image, kernel, **words)
        for row, column in np.ndindex(output.shape):
            step = step_at(image, kernel, row, column, **words)
            assert step.total == pytest.approx(output[row, column], abs=1e-12)
            spread = words.get("dilation", 1)
            for i, j in np.ndindex(kernel.shape):
                place = step.top + i * spread, step.left + j * spread
                inside = 0 <= place[0] < image.shape[0] and 0 <= place[1] < image.shape[1]
                assert step.window[i, j] == (image[place] if inside else 0)


def test_a_step_is_written_out() -> None:
    image = np.array([[0.2, 0.5], [-0.25, 1.0]])
    step = step_at(image, np.array([[1, 0], [-2, 3]]), 0, 0)
    assert step.text == "1·0.2 + 0·0.5 - 2·(-0.25) + 3·1 = 3.7"
    assert step_at(image, np.array([[-1.0]]), 0, 1).text == "-1·0.5 = -0.5"


@pytest.mark.parametrize("kind", POOLINGS)
def test_every_step_of_pooling_equals_a_value_of_the_output(image: np.ndarray, kind: str) -> None:
    for size, stride in ((2, None), (3, 2)):
        output = pool(image, size, stride, kind)
        for row, column in np.ndindex(output.shape):
            step = pool_step_at(image, size, row, column, stride=stride, kind=kind)
            assert step.total == pytest.approx(output[row, column], abs=1e-12)
            np.testing.assert_array_equal(step.window, image[step.top : step.top + size, step.left : step.left + size])


def test_a_step_of_pooling_is_written_out() -> None:
    image = np.array([[1, 3, 2, 4], [5, 6, -1, 2]])
    assert pool_step_at(image, 2, 0, 0).text == "max(1, 3, 5, 6) = 6"
    assert pool_step_at(image, 2, 0, 1, kind="average").text == "(2 + 4 + (-1) + 2) / 4 = 1.75"
    assert pool_step_at(image, 2, 0, 2, stride=1).text == "max(2, 4, -1, 2) = 4"
    with pytest.raises(UserError, match="row 1, column 0 is outside the output, which has 1 rows and 2 columns"):
        pool_step_at(image, 2, 1, 0)
