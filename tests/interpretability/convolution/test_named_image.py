"""Images by name: samples, images of datasets, files, numbers; and their inspection."""

from pathlib import Path

import numpy as np
import pytest
from ordinary_user import forbid_search
from PIL import Image

from opsin.data.datasets import digits
from opsin.errors import UserError
from opsin.interpretability.convolution.dataset_images import dataset_image
from opsin.interpretability.convolution.inspection import channel_table, inspect_array
from opsin.interpretability.convolution.named_image import inspect_named, named_image
from opsin.interpretability.convolution.sample_images import sample


def test_names_of_images(in_tmp: Path) -> None:
    np.testing.assert_array_equal(named_image("coins", None), sample("coins"))
    assert named_image("digits:3", None).shape == (28, 28)
    np.testing.assert_array_equal(named_image("1 2.5; -3 1/4", None), [[1, 2.5], [-3, 0.25]])
    pixels = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    Image.fromarray(pixels).save("1 2.png")
    np.testing.assert_array_equal(named_image("1 2.png", None), pixels)


def test_numbers_may_be_longer_than_the_name_of_a_file(in_tmp: Path) -> None:
    text = ";".join([" ".join("0" * 16)] * 16)
    assert len(text) > 255
    np.testing.assert_array_equal(named_image(text, None), np.zeros((16, 16)))
    assert inspect_named(text, None).pixels.shape == (16, 16)


def test_an_image_in_a_folder_that_may_not_be_searched_is_not_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_search(tmp_path / "private", monkeypatch)
    with pytest.raises(PermissionError):
        named_image(str(tmp_path / "private" / "photo.png"), None)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing.png", "nothing.png is neither a file nor a sample image; the samples are cat"),
        (".", "is neither a file nor a sample image"),
        ("broken.png", r"broken\.png: .*\. Use another file"),
        ("digits:1797", "digits has the training images 0 to 1,796, got 1797"),
        ("cats:0", "'cats' has no numbered images"),
        ("mnist:0", "are not in nowhere; download them with .*prepare.data"),
        ("1 2; 3", "the same length"),
        ("1 " * 65, "1 to 64 rows and columns"),
        ("1 " * 200, "1 to 64 rows and columns"),
        ("photo" * 60, "is neither a file nor a sample image"),
    ],
)
def test_a_name_that_cannot_be_read_is_an_error(name: str, said: str, in_tmp: Path) -> None:
    (in_tmp / "broken.png").write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match=said):
        named_image(name, "nowhere")


def test_an_image_of_a_dataset_has_its_label_and_usual_size() -> None:
    image = dataset_image("digits", 7, None)
    assert (image.label, image.count, image.pixels.dtype) == ("7", 1797, np.uint8)
    ours, theirs = image.pixels.astype(float), digits().splits["train"].read(7)[..., 0].astype(float)
    assert ours.mean() == pytest.approx(theirs.mean(), rel=0.05)


@pytest.mark.parametrize(
    ("mode", "dtype", "bands"),
    [
        ("L", "uint8", ["gray"]),
        ("RGBA", "uint8", ["red", "green", "blue", "alpha"]),
        ("P", "uint8", ["palette index"]),
        ("I;16", "uint16", ["I"]),
        ("1", "bool", ["1"]),
    ],
)
def test_a_file_is_inspected_as_it_is_stored(mode: str, dtype: str, bands: list[str], in_tmp: Path) -> None:
    Image.new("RGB", (7, 5), (200, 100, 50)).convert("L" if mode == "I;16" else mode).convert(mode).save("image.png")
    image = inspect_named("image.png", None)
    assert image.source == f"PNG, mode {mode}"
    assert image.pixels.shape[:2] == (5, 7)
    _, *rows = channel_table(image)
    assert [row[1] for row in rows[: len(bands)]] == bands
    assert {row[2] for row in rows[: len(bands)]} == {dtype}
    assert [row[0] for row in rows[len(bands) :]] == ["RGB"] * 3 + ["ITU-R 601"] + ["HSV"] * 3 + ["L*a*b*"] * 3


def test_a_rotated_photograph_is_inspected_upright(in_tmp: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (7, 5)).save("turned.jpg", exif=exif)
    image = inspect_named("turned.jpg", None)
    assert image.colors is not None
    assert image.pixels.shape == image.colors.shape == (7, 5, 3)


@pytest.mark.parametrize("strip", [8, 10**6])
def test_facts_of_a_channel_are_those_of_numpy(strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opsin.interpretability.convolution.inspection._STRIP", strip)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    head, red, *_ = channel_table(inspect_array(pixels), (2, 3))
    assert head[-1] == "row 2, column 3"
    values = pixels[..., 0]
    expected = [values.min(), values.max(), values.mean(), values.std(), values[2, 3]]
    assert red[:3] == ("stored", "red", "uint8")
    assert [float(text) for text in red[3:]] == pytest.approx([float(value) for value in expected], rel=1e-3)
    assert channel_table(inspect_array(np.array([[1.0, 2.0]])))[1:] == [
        ("typed", "numbers", "float64", "1", "2", "1.500", "0.500")
    ]
