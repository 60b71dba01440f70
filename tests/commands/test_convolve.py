"""The command line of convolution by hand."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opsin.commands.convolve import LARGEST_SIDE, ConvolveOptions, draw, main, read_image, sizes
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


def test_kernels_strides_and_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--image", "digit_3", "--kernel", "-1 0 1; -1 0 1; -1 0 1", "blur", "--stride", "2", "--padding", "1"]
    assert main([*words, "--step", "1", "2", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "(8 - 3 + 2·1) / 2 + 1 = 3.5 + 1, rounded down: 4" in said
    expected = convolve(gray(sample("digit_3")), KERNELS["vertical"], stride=2, padding=1)[1, 2]
    (line,) = [line for line in said.splitlines() if "row 1, column 2" in line]
    assert float(line.rpartition("=")[2]) == pytest.approx(expected, rel=1e-3)
    assert {path.name for path in tmp_path.iterdir()} == {"kernels.png", "step.png"}


def test_output_sizes_are_computed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
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
        (["--kernel", "sobol"], "'sobol' is neither"),
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
    ],
)
def test_a_mistake_is_one_message(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--out", str(tmp_path / "out")]) in (1, 2)
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_files_are_read_and_large_ones_reduced(tmp_path: Path) -> None:
    wide = tmp_path / "wide photo.png"
    Image.new("RGB", (4096, 10), (10, 20, 30)).save(wide)
    assert read_image(str(wide)).shape == (2, LARGEST_SIDE, 3)
    broken = tmp_path / "broken.png"
    broken.write_bytes(wide.read_bytes()[:60])
    with pytest.raises(UserError, match=r"broken\.png: .*. Use another file"):
        read_image(str(broken))
    with pytest.raises(UserError, match="is neither a file nor a sample image; the samples are cat"):
        read_image(str(tmp_path))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        list(draw(sample("digit_1"), ConvolveOptions(kernels=["blur"]), tmp_path / "file"))


def test_values_of_black_and_white() -> None:
    digit, cat = gray(sample("digit_3")), gray(sample("cat"))
    for name, image, expected in (
        ("sobel_vertical", digit, (-4, 4)),
        ("diagonal", digit, (-4, 4)),
        ("blur", digit, (0, 1)),
        ("blur", cat, (0, 1)),
        ("diagonal", cat, (0, 3)),
    ):
        assert pictures.limits(image, KERNELS[name], convolve(image, KERNELS[name])) == expected
    response = convolve(cat, KERNELS["sobel_vertical"])
    low, high = pictures.limits(cat, KERNELS["sobel_vertical"], response)
    assert low == -high
    assert 0.97 < (np.abs(response) < high).mean() < 0.99


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


def test_numbers_are_short() -> None:
    texts = [pictures._short(value) for value in (0.0, -1.0, 0.111, 0.5, 2.26, 12.6, -0.0, -0.001)]
    assert texts == ["0", "-1", "0.11", "0.5", "2.3", "13", "0", "0"]
