"""The command line of convolution by hand."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opsin.commands.convolve import main, sizes
from opsin.commands.convolve_image import LARGEST_SIDE, ConvolveOptions, draw
from opsin.errors import UserError
from opsin.interpretability.convolution import figures as pictures
from opsin.interpretability.convolution.convolution import KERNELS, convolve
from opsin.interpretability.convolution.sample_images import gray, sample

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "convolve.py"


@pytest.mark.slow
def test_without_a_selection_all_images_are_drawn(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT)], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "outputs" / "convolution"
    written = {path.name for path in out.iterdir()}
    assert written == {"kernels.png", "gabor.png", "gabor_bank.png", "pooling.png", "colors.png"}
    for path in out.iterdir():
        assert np.asarray(Image.open(path)).std() > 20
    assert "height (300 - 3 + 2·0) / 1 + 1 = 298" in done.stdout
    assert "width  (451 - 2 + 2·0) / 2 + 1 = 224.5 + 1, rounded down: 225" in done.stdout
    assert done.stderr == ""


def test_kernels_strides_and_a_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--image", "digit_3", "--kernel", "-1 0 1; -1 0 1; -1 0 1", "blur", "--stride", "2", "--padding", "1"]
    assert main([*words, "--step", "1", "2", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "(8 - 3 + 2·1) / 2 + 1 = 3.5 + 1, rounded down: 4" in said
    expected = convolve(gray(sample("digit_3")), KERNELS["prewitt_vertical"], stride=2, padding=1)[1, 2]
    (line,) = [line for line in said.splitlines() if "row 1, column 2" in line]
    assert float(line.rpartition("=")[2]) == pytest.approx(expected, rel=1e-3)
    assert {path.name for path in tmp_path.iterdir()} == {"kernels.png", "step.png"}


def test_output_sizes_are_computed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--sizes", "32", "3", "32", "64", "--padding", "same", "--stride", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "32 x 32 with 3 x 3: same: 32 / 2 = 16, with 0 + 1 zeros around",
        "parameters: (3·3·32 + 1)·64 = 18,496",
        "multiply-adds: 3·3·32·64·16·16 = 4,718,592",
    ]
    with pytest.raises(UserError, match="32 3 32 64"):
        sizes([32, 3, 1])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--image", "nothing.png"], "is neither a file nor a sample image"),
        (["--kernel", "sobel"], "'sobel' is not a name"),
        (["--kernel", "blur", "--stride", "0"], "stride must be at least 1, got 0"),
        (["--kernel", "blur", "--padding", "-2"], "got -2"),
        (["--kernel", "blur", "--padding", "wide"], "--padding must be valid, same or a number of pixels, got wide"),
        (["--pool", "0"], "the side of the kernel or window must be at least 1, got 0"),
        (["--image", "digit_1", "--pool", "9"], "does not fit into 8"),
        (["--pool", "2", "--stride", "0"], "stride must be at least 1, got 0"),
        (["--gabor", "1,2"], "frequency,theta,sigma"),
        (["--step", "999", "0"], "row 999, column 0 is outside"),
        (["--sizes", "3", "5"], "does not fit into 3"),
        (["--kernel", "blur", "--range", "1", "1"], "--range"),
        (["--image", "1 2; 3"], "all rows of the image must have the same length, got 2, 1 numbers"),
        (
            ["--image", "1 2; 3 4", "--colors"],
            "an image typed as numbers has --kernel, --pool, --step and --inspect only",
        ),
        (["--image", "1 2; 3 4"], "an image typed as numbers has --kernel, --pool, --step and --inspect only"),
        (["--image", "1 2; 3 4", "--kernel", "1", "--range", "0", "1"], "--range has no effect on an image typed as"),
        (["--sizes", "8", "3", "--kernel", "blur"], "--kernel has no effect with --sizes, which reads no image"),
        (["--sizes", "8", "3", "--image", "cat"], "--image has no effect with --sizes"),
        (["--sizes", "8", "3", "--pool"], "--pool has no effect with --sizes"),
        (["--sizes", "8", "3", "--range", "0", "1"], "--range has no effect with --sizes"),
        (["--pool", "--padding", "same"], "--padding has an effect on --kernel, --step, --sizes only: add one of them"),
        (["--gabor", "0.1,0,2", "--stride", "2"], "--stride has an effect on --kernel, --step, --pool, --sizes only"),
        (["--colors", "--dilation", "1"], "--dilation has an effect on --kernel, --step, --sizes only"),
        (["--step", "0", "0", "--range", "0", "1"], "--range has an effect on --kernel only"),
        (["--inspect", "--stride", "1"], "--stride has an effect on"),
        (["--inspect", "1"], "--inspect takes nothing, or ROW COLUMN of one pixel, got 1 numbers"),
        (["--image", "digit_1", "--inspect", "8", "0"], "row 8, column 0 is outside the image"),
        (["--image", "imagenet:7", "--pool"], "'imagenet' has no numbered images; use one of digits, mnist"),
    ],
)
def test_a_mistake_is_one_message(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--out", str(tmp_path / "out")]) in (1, 2)
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_options_that_have_an_effect_are_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--sizes", "8", "3", "--stride", "2", "--padding", "same", "--dilation", "2"]) == 0
    words = ["--image", "digit_1", "--kernel", "blur", "--pool", "--padding", "same", "--range", "0", "1", "--inspect"]
    assert main([*words, "--stride", "2", "--dilation", "2", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "kernel 3 x 3, stride 2, padding same, dilation 2" in said
    assert "pooling 2 x 2 at stride 2" in said


def test_large_images_are_reduced(tmp_path: Path) -> None:
    lines = draw(np.full((10, 4096, 3), 9, np.uint8), ConvolveOptions(pools=[2]), tmp_path)
    assert next(lines) == f"the image: 2 x {LARGEST_SIDE} pixels"


def test_numbers_are_convolved_and_pooled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Examples of the lectures, typed as numbers."""

    def output(*words: str) -> str:
        assert main([*words, "--out", str(tmp_path)]) == 0
        return capsys.readouterr().out

    pooled = output("--image", "1 3 2 4; 5 6 1 2; 3 2 8 1; 4 7 3 9", "--pool", "2")
    assert "max of 2 x 2:\n  6 4\n  7 9\n" in pooled
    assert "average of 2 x 2:\n  3.75 2.25\n     4 5.25\n" in pooled
    assert "vertical:\n  8 8\n  8 8\n" in output(
        "--image", "1 2 3 4; 5 6 7 8; 9 10 11 12; 13 14 15 16", "--kernel", "vertical"
    )
    edge = ";".join(["255 255 255 0 0 0"] * 6)
    assert "    0 765 765   0\n" * 4 in output("--image", edge, "--kernel", "1 0 -1; 1 0 -1; 1 0 -1")
    assert "1·255 + 0·255 - 1·0" in output("--image", edge, "--kernel", "1 0 -1", "--step", "0", "1")
    assert {path.name for path in tmp_path.iterdir()} == {"kernels.png", "pooling.png", "step.png"}


def test_an_image_is_inspected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = np.zeros((3, 5, 3), np.uint8)
    pixels[1, 2] = 255, 128, 0
    Image.fromarray(pixels).save(tmp_path / "orange.png")
    assert main(["--image", str(tmp_path / "orange.png"), "--inspect", "1", "2", "--out", str(tmp_path / "out")]) == 0
    head, columns, *rows = capsys.readouterr().out.splitlines()
    assert head == "PNG, mode RGB: shape (3, 5, 3), uint8, 45 values"
    assert columns.split("  ")[0] == "space"
    assert columns.endswith("row 1, column 2")
    assert rows[0].split() == ["stored", "red", "uint8", "0", "255", "17", "63.608", "255"]
    assert rows[6].split()[:2] + rows[6].split()[-1:] == ["ITU-R", "601", "0.594"]
    assert rows[7].split()[:2] + rows[7].split()[-1:] == ["HSV", "hue", "0.084"]
    assert len(rows) == 3 + 10
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        list(draw(sample("digit_1"), ConvolveOptions(kernels=["blur"]), tmp_path / "file"))


def test_values_of_black_and_white() -> None:
    digit, cat = gray(sample("digit_3")), gray(sample("cat"))
    for name, image, expected in (
        ("vertical", digit, (-4, 4)),
        ("diagonal", digit, (-4, 4)),
        ("blur", digit, (0, 1)),
        ("blur", cat, (0, 1)),
        ("diagonal", cat, (0, 3)),
    ):
        assert pictures.limits(image, KERNELS[name], convolve(image, KERNELS[name])) == expected
    response = convolve(cat, KERNELS["vertical"])
    low, high = pictures.limits(cat, KERNELS["vertical"], response)
    assert low == -high
    assert 0.97 < (np.abs(response) < high).mean() < 0.99


@pytest.mark.parametrize("shape", [(12, 600), (5, 600), (1, 300), (600, 12)])
def test_the_kernel_of_a_flat_image_is_drawn_at_a_visible_size(shape: tuple[int, int]) -> None:
    image = np.linspace(0, 1, shape[0] * shape[1]).reshape(shape)
    kernel = np.ones((min(5, shape[0]), 5))
    picture = pictures.kernel_picture(image, {"positive": kernel})
    red = np.nonzero((picture == pictures._signed(kernel)[0, 0]).all(axis=2))
    assert min(np.ptp(red[1]), np.ptp(red[0]) * 5 / len(kernel)) > 65


@pytest.mark.parametrize(("side", "has_numbers"), [(3, True), (7, True), (9, False)])
def test_numbers_are_drawn_in_squares_of_a_readable_size(side: int, has_numbers: bool) -> None:
    picture = pictures.kernel_picture(np.zeros((40, 40)), {"positive": np.ones((side, side))})
    kernel = picture[55:190, 520:655]
    assert (len(np.unique(kernel.reshape(-1, 3), axis=0)) > 1) == has_numbers  # more than the red of the kernel


def test_the_window_is_outlined_where_the_step_is() -> None:
    digit = gray(sample("digit_3"))
    picture = pictures.step_picture(digit, KERNELS["blur"], 2, 4, cell=40)
    rows, columns = np.nonzero((picture[:, :322] == pictures.BOX).all(axis=2))
    top = picture.shape[0] - 8 * 40 - 16 - 6  # title above; one line of captions and the rim below
    assert (rows.min() - top) // 40 == 2
    assert (columns.min() - 6) // 40 == 4
    assert rows.max() - rows.min() + 1 == columns.max() - columns.min() + 1 == 3 * 40


def test_a_dilated_window_leaves_pixels_out() -> None:
    digit = gray(sample("digit_3"))
    marked = [
        (pictures.step_picture(digit, KERNELS["blur"], 0, 0, dilation=dilation)[:, :322] == pictures.BOX).all(axis=2)
        for dilation in (1, 2)
    ]
    reaches = [np.ptp(np.nonzero(mask)[0]) + 1 for mask in marked]
    assert reaches == [3 * 40, 5 * 40]
    assert marked[1].sum() == 9 * (40 * 40 - 32 * 32)  # nine squares, each outlined four pixels wide


def test_numbers_are_shown_with_few_digits() -> None:
    texts = [pictures._short(value) for value in (0.0, -1.0, 0.111, 0.5, 2.26, 12.6, -0.0, -0.001)]
    assert texts == ["0", "-1", "0.11", "0.5", "2.3", "13", "0", "0"]
