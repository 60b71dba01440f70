"""Convolution compared with torch, scipy, scikit-image and sums computed by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage, signal
from skimage import filters

from opsin.errors import UserError
from opsin.interpretability.convolution.convolution import (
    KERNELS,
    convolve,
    output_size,
    parameter_count,
    parse_kernel,
    pool,
    worked_size,
)
from opsin.interpretability.convolution.sample_images import gray, sample
from opsin.interpretability.convolution.single_step import pool_step_at, step_at


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).random((17, 13))


@pytest.mark.parametrize("name", KERNELS)
def test_convolve_matches_scipy_correlate(image: np.ndarray, name: str) -> None:
    kernel = KERNELS[name]
    np.testing.assert_allclose(convolve(image, kernel), signal.correlate2d(image, kernel, "valid"), atol=1e-12)
    inside = ndimage.convolve(image, kernel[::-1, ::-1])[1:-1, 1:-1]
    np.testing.assert_allclose(convolve(image, kernel), inside, atol=1e-12)


def test_sobel_and_prewitt_are_multiples_of_those_of_scikit_image() -> None:
    brick = gray(sample("brick"))
    # scikit-image turns the kernel around and divides by the sum of its positive numbers.
    for name, total, theirs in (
        ("horizontal", 4, -filters.sobel_h(brick)),
        ("vertical", 4, filters.sobel_v(brick)),
        ("prewitt_horizontal", 3, -filters.prewitt_h(brick)),
        ("prewitt_vertical", 3, filters.prewitt_v(brick)),
    ):
        np.testing.assert_allclose(convolve(brick, KERNELS[name]) / total, theirs[1:-1, 1:-1], atol=1e-12)


def test_kernels_have_the_names_of_the_lectures() -> None:
    assert KERNELS["horizontal"].tolist() == [[1, 2, 1], [0, 0, 0], [-1, -2, -1]]
    assert KERNELS["vertical"].tolist() == [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]
    assert KERNELS["diagonal"].tolist() == np.eye(3).tolist()
    assert KERNELS["edge_detect"].tolist() == [[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]]


def test_examples_of_the_lectures() -> None:
    ramp = np.arange(1, 17).reshape(4, 4)
    assert convolve(ramp, KERNELS["vertical"]).tolist() == [[8, 8], [8, 8]]
    edge = np.repeat([[255, 255, 255, 0, 0, 0]], 6, axis=0)
    assert convolve(edge, -KERNELS["prewitt_vertical"]).tolist() == [[0, 765, 765, 0]] * 4
    step = np.repeat([[0, 0, 0, 10, 10]], 5, axis=0)
    assert convolve(step, -KERNELS["prewitt_vertical"]).tolist() == [[0, -30, -30]] * 3


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1, 3])
@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("shape", [(3, 3), (2, 4), (5, 1)])
def test_convolve_matches_conv2d(
    image: np.ndarray, stride: int, padding: int, dilation: int, shape: tuple[int, int]
) -> None:
    kernel = np.random.default_rng(1).normal(size=shape)
    weight, pixels = torch.from_numpy(kernel)[None, None], torch.from_numpy(image)[None, None]
    theirs = F.conv2d(pixels, weight, stride=stride, padding=padding, dilation=dilation)[0, 0].numpy()
    ours = convolve(image, kernel, stride=stride, padding=padding, dilation=dilation)
    np.testing.assert_allclose(ours, theirs, atol=1e-12)
    sides = [
        output_size(side, extent, stride=stride, padding=padding, dilation=dilation)
        for side, extent in zip(image.shape, shape, strict=True)
    ]
    assert tuple(sides) == theirs.shape


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("shape", [(3, 3), (2, 4), (5, 5)])
def test_same_padding_matches_torch_at_stride_one(image: np.ndarray, dilation: int, shape: tuple[int, int]) -> None:
    kernel = np.random.default_rng(1).normal(size=shape)
    weight, pixels = torch.from_numpy(kernel)[None, None], torch.from_numpy(image)[None, None]
    theirs = F.conv2d(pixels, weight, padding="same", dilation=dilation)[0, 0].numpy()
    np.testing.assert_allclose(convolve(image, kernel, padding="same", dilation=dilation), theirs, atol=1e-12)


@pytest.mark.parametrize("side", [7, 8, 32])
@pytest.mark.parametrize("stride", [1, 2, 3, 5])
def test_the_output_side_of_same_padding_is_the_side_over_the_stride_rounded_up(side: int, stride: int) -> None:
    output = convolve(np.ones((side, side)), np.ones((3, 3)), stride=stride, padding="same")
    assert output.shape == (-(-side // stride),) * 2
    assert output_size(side, 3, stride=stride, padding="same") == output.shape[0]


def test_output_sizes_match_the_lectures() -> None:
    assert output_size(5, 3) == 3
    assert output_size(5, 3, padding="same") == 5
    assert output_size(28, 5) == 24
    assert output_size(224, 3) == 222
    assert output_size(224, 3, padding="same") == 224
    assert output_size(32, 3) == 30
    assert output_size(32, 3, padding="same") == 32
    assert output_size(32, 3, stride=2, padding="same") == 16
    assert output_size(32, 5, stride=2) == 14
    assert output_size(8, 3) == 6
    assert parameter_count(3, 32, 64) == 18_496


def test_size_computations_are_written_out() -> None:
    assert worked_size(28, 5) == "(28 - 5 + 2·0) / 1 + 1 = 24"
    assert worked_size(28, 5, padding=2) == "(28 - 5 + 2·2) / 1 + 1 = 28"
    assert worked_size(32, 5, stride=2) == "(32 - 5 + 2·0) / 2 + 1 = 13.5 + 1, rounded down: 14"
    assert worked_size(7, 3, stride=2, padding="same") == "same: 7 / 2 rounded up = 4, with 1 + 1 zeros around"
    assert worked_size(32, 3, dilation=2) == "2·(3 - 1) + 1 = 5 pixels covered; (32 - 5 + 2·0) / 1 + 1 = 28"


def test_pooling_matches_the_lectures() -> None:
    values = np.array([[1, 3, 2, 4], [5, 6, 1, 2], [3, 2, 8, 1], [4, 7, 3, 9]])
    assert pool(values).tolist() == [[6, 4], [7, 9]]
    assert pool(values, kind="average").tolist() == [[3.75, 2.25], [4, 5.25]]


@pytest.mark.parametrize(("size", "stride"), [(2, None), (3, None), (3, 2), (2, 1)])
def test_pooling_matches_torch(image: np.ndarray, size: int, stride: int | None) -> None:
    pixels = torch.from_numpy(image)[None]
    np.testing.assert_allclose(pool(image, size, stride), F.max_pool2d(pixels, size, stride)[0].numpy())
    average = F.avg_pool2d(pixels, size, stride)[0].numpy()
    np.testing.assert_allclose(pool(image, size, stride, "average"), average, atol=1e-12)


def test_integers_do_not_overflow() -> None:
    white = np.full((3, 3), 255, np.uint8)
    assert convolve(white, np.ones((3, 3), np.int8)).tolist() == [[9 * 255]]
    assert pool(white, 3, kind="average").tolist() == [[255]]
    assert step_at(white, -np.ones((3, 3), np.int8), 0, 0).total == -9 * 255
    assert pool_step_at(white, 3, 0, 0, kind="average").total == 255


def test_kernels_are_read_from_names_and_numbers() -> None:
    np.testing.assert_array_equal(parse_kernel("Prewitt-Vertical "), KERNELS["prewitt_vertical"])
    np.testing.assert_array_equal(parse_kernel("1 0 -1; 2 0 -2;1,0,-1;"), [[1, 0, -1], [2, 0, -2], [1, 0, -1]])
    np.testing.assert_array_equal(parse_kernel("1 2\n3 4"), [[1, 2], [3, 4]])
    np.testing.assert_array_equal(parse_kernel("1/4 .5e0"), [[0.25, 0.5]])
    parse_kernel("blur")[:] = 0
    assert KERNELS["blur"].sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "1 to 31"),
        (" ;; ", "';;' is not a name"),
        ("1 2; 3", "2, 1 numbers"),
        ("1 2; 3 1e300", r"'1e300' is not a number between -1e\+09 and 1e\+09"),
        ("sobel_vertical", r"'sobel_vertical' is not a name: did you mean vertical\? Use one of horizontal, "),
        ("vrtical", r"did you mean vertical\?"),
        ("nan", "'nan' is not a name"),
        ("1 nan", "the kernel: 'nan' is not a number"),
        ("1e999", "'1e999'"),
        ("1/0", "'1/0'"),
        ("1 " * 32, "1 to 31"),
        ("1;" * 32, "1 to 31"),
        ("<b>", "'<b>'"),
    ],
)
def test_invalid_kernels_are_refused(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_kernel(text)


def test_invalid_sizes_are_refused(image: np.ndarray) -> None:
    kernel = KERNELS["blur"]
    with pytest.raises(UserError, match="covers 21 pixels does not fit into 17"):
        convolve(image, kernel, dilation=10)
    with pytest.raises(UserError, match="stride must be at least 1, got 0"):
        convolve(image, kernel, stride=0)
    with pytest.raises(UserError, match="dilation must be at least 1, got 0"):
        convolve(image, kernel, dilation=0)
    with pytest.raises(UserError, match="got -1"):
        convolve(image, kernel, padding=-1)
    with pytest.raises(UserError, match="padding must be valid, same or 0 to 512 pixels, got 100000"):
        convolve(image, kernel, padding=100_000)
    with pytest.raises(UserError, match="got full"):
        convolve(image, kernel, padding="full")
    with pytest.raises(UserError, match="one channel"):
        convolve(np.zeros((4, 4, 3)), kernel)
    with pytest.raises(UserError, match="row 15, column 0 is outside"):
        step_at(image, kernel, 15, 0)
    with pytest.raises(UserError, match="row 0, column -1 is outside"):
        step_at(image, kernel, 0, -1)
    with pytest.raises(UserError, match="'median'"):
        pool(image, kind="median")
    with pytest.raises(UserError, match="does not fit into"):
        pool(image, 14)
