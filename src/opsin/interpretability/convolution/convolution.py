"""Convolution and pooling with NumPy: named kernels, and output sizes with their calculation."""

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from opsin.errors import UserError, did_you_mean
from opsin.interpretability.convolution.matrix_text import parse_matrix

Pooling = Literal["max", "average"]

POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
"""All kinds of pooling."""

Padding = int | Literal["valid", "same"]
"""Zeros around an image: a number per side, none (`valid`), or those that keep the size at stride 1 (`same`)."""

LARGEST_KERNEL, LARGEST_PADDING = 31, 512

KERNELS: dict[str, NDArray[np.float64]] = {
    name: np.array(rows, np.float64)
    for name, rows in {
        "horizontal": [[1, 2, 1], [0, 0, 0], [-1, -2, -1]],
        "vertical": [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]],
        "diagonal": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        "edge_detect": [[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]],
        "prewitt_horizontal": [[1, 1, 1], [0, 0, 0], [-1, -1, -1]],
        "prewitt_vertical": [[-1, 0, 1], [-1, 0, 1], [-1, 0, 1]],
        "laplace": [[0, 1, 0], [1, -4, 1], [0, 1, 0]],
        "sharpen": [[0, -1, 0], [-1, 5, -1], [0, -1, 0]],
        "emboss": [[-2, -1, 0], [-1, 1, 1], [0, 1, 2]],
        "blur": [[1 / 9] * 3] * 3,
        "gaussian_blur": [[1 / 16, 2 / 16, 1 / 16], [2 / 16, 4 / 16, 2 / 16], [1 / 16, 2 / 16, 1 / 16]],
    }.items()
}
"""Kernels by name, each of shape (3, 3). The first four have the names that the lectures use.

As in networks, kernels are not flipped: the response of `horizontal` is positive where the image is brighter above.
`horizontal` and `vertical` are the Sobel kernels of scikit-image times four (Sobel and Feldman 1968), and the Prewitt
kernels are those of scikit-image times three."""


def parse_kernel(text: str) -> NDArray[np.float64]:
    """Return a kernel by name, or from numbers as `parse_matrix` reads them.

    Returns:
        A copy (rows, columns).

    Raises:
        UserError: Unknown name, invalid number, rows of different lengths, or too many rows or columns.
    """
    name = text.strip().lower().replace(" ", "_").replace("-", "_")
    if name in KERNELS:
        return KERNELS[name].copy()
    if text.strip() and not any(letter.isdigit() for letter in text):
        raise UserError(
            f"the kernel: {text.strip()[:40]!r} is not a name{did_you_mean(name, KERNELS) or '.'} Use one of "
            f"{', '.join(KERNELS)} (horizontal and vertical are the Sobel kernels), or numbers: "
            '"1 0 -1; 2 0 -2; 1 0 -1"'
        )
    return parse_matrix(text, "the kernel", LARGEST_KERNEL)


def reach(kernel: int, dilation: int) -> int:
    """Return the number of pixels that a dilated kernel covers."""
    return dilation * (kernel - 1) + 1


def paddings(
    size: int, kernel: int, *, stride: int = 1, padding: Padding = "valid", dilation: int = 1
) -> tuple[int, int]:
    """Return the zeros before and after one axis; `same` puts an odd one after, as in TensorFlow and torch."""
    if padding == "valid":
        return 0, 0
    if padding == "same":
        total = max((-(-size // stride) - 1) * stride + reach(kernel, dilation) - size, 0)
        return total // 2, total - total // 2
    return padding, padding


def output_size(size: int, kernel: int, *, stride: int = 1, padding: Padding = "valid", dilation: int = 1) -> int:
    """Return the output size along an axis: (H - K + 2P) / S + 1 rounded down, or ceil(H / S) for `same`.

    Args:
        size: H, the image size in pixels.
        kernel: K, the kernel size; a dilated kernel covers D (K - 1) + 1 pixels.
        stride: S.
        padding: P, zeros on each side.
        dilation: D.

    Raises:
        UserError: A number is too small, or the kernel is larger than the padded image.
    """
    for name, value in (
        ("the image's side", size),
        ("the side of the kernel or window", kernel),
        ("stride", stride),
        ("dilation", dilation),
    ):
        if value < 1:
            raise UserError(f"{name} must be at least 1, got {value}")
    known = 0 <= padding <= LARGEST_PADDING if isinstance(padding, int) else padding in ("valid", "same")
    if not known:
        raise UserError(f"padding must be valid, same or 0 to {LARGEST_PADDING} pixels, got {padding}")
    room = size + sum(paddings(size, kernel, stride=stride, padding=padding, dilation=dilation))
    if reach(kernel, dilation) > room:
        raise UserError(
            f"a kernel that covers {reach(kernel, dilation)} pixels does not fit into {room}: "
            "use a smaller kernel or dilation, more padding, or a larger image"
        )
    return (room - reach(kernel, dilation)) // stride + 1


def worked_size(size: int, kernel: int, *, stride: int = 1, padding: Padding = "valid", dilation: int = 1) -> str:
    """Return the calculation of `output_size`, such as `(28 - 5 + 2·0) / 1 + 1 = 24`; raises the same errors."""
    answer = output_size(size, kernel, stride=stride, padding=padding, dilation=dilation)
    covered = reach(kernel, dilation)
    widened = f"{dilation}·({kernel} - 1) + 1 = {covered} pixels covered; " if dilation > 1 else ""
    if padding == "same":
        before, after = paddings(size, kernel, stride=stride, padding=padding, dilation=dilation)
        rounded = " rounded up" if size % stride else ""
        return f"{widened}same: {size} / {stride}{rounded} = {answer}, with {before} + {after} zeros around"
    zeros = 0 if padding == "valid" else padding
    room = size - covered + 2 * zeros
    rounded = f"{round(room / stride, 2):g} + 1, rounded down: {answer}" if room % stride else str(answer)
    return f"{widened}({size} - {covered} + 2·{zeros}) / {stride} + 1 = {rounded}"


def parameter_count(kernel: int, channels_in: int, channels_out: int) -> int:
    """Return the number of parameters of a convolution with bias: (K K C_in + 1) C_out."""
    return (kernel * kernel * channels_in + 1) * channels_out


def sliding_windows(
    image: NDArray[Any], kernel: tuple[int, int], stride: int, padding: Padding, dilation: int
) -> NDArray[np.float64]:
    """Return the windows of the kernel as a view (H', W', kernel height, kernel width)."""
    if image.ndim != 2 or len(kernel) != 2:
        raise UserError(
            "convolution by hand needs an image of one channel (H, W) and a kernel (height, width), "
            f"got an image of shape {image.shape}"
        )
    for side, extent in zip(image.shape, kernel, strict=True):
        output_size(side, extent, stride=stride, padding=padding, dilation=dilation)
    zeros = [
        paddings(side, extent, stride=stride, padding=padding, dilation=dilation)
        for side, extent in zip(image.shape, kernel, strict=True)
    ]
    padded = np.pad(np.asarray(image, np.float64), zeros)
    covered = reach(kernel[0], dilation), reach(kernel[1], dilation)
    every: NDArray[np.float64] = np.lib.stride_tricks.sliding_window_view(padded, covered)
    return every[::stride, ::stride, ::dilation, ::dilation]


def convolve(
    image: NDArray[Any], kernel: NDArray[Any], *, stride: int = 1, padding: Padding = "valid", dilation: int = 1
) -> NDArray[np.float64]:
    """Convolve as networks do: the kernel is not flipped (cross-correlation).

    Args:
        image: (H, W), any numbers.
        kernel: (kernel height, kernel width).
        stride: Step between positions.
        padding: Zeros around the image.
        dilation: Step between the numbers of the kernel.

    Returns:
        (H', W'), see `output_size`.

    Raises:
        UserError: The image has channels, or the kernel is larger than the padded image.
    """
    windows = sliding_windows(image, kernel.shape, stride, padding, dilation)
    answer: NDArray[np.float64] = np.einsum("ijkl,kl->ij", windows, kernel)
    return answer


def pool(image: NDArray[Any], size: int = 2, stride: int | None = None, kind: Pooling = "max") -> NDArray[np.float64]:
    """Return the maximum or average of each window; incomplete windows are dropped, as in torch.

    Args:
        image: (H, W).
        size: Side of the square windows.
        stride: Step between windows; None for `size`.
        kind: `max` or `average`.

    Raises:
        UserError: The window is larger than the image, or the kind is unknown.
    """
    if kind not in POOLINGS:
        raise UserError(f"pooling must be max or average, got {kind!r}")
    windows = sliding_windows(image, (size, size), size if stride is None else stride, "valid", 1)
    pooled: NDArray[np.float64] = windows.max(axis=(2, 3)) if kind == "max" else windows.mean(axis=(2, 3))
    return pooled
