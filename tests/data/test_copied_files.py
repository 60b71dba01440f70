"""Files of val and test that are copies of training files get a warning."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from datamodules import image_data
from PIL import Image

from opsin.data.copied_files import warn_copied_files
from opsin.data.datasets import digits, image_folder

CLASSES = ("cat", "dog")


def write(folder: Path, count: int, seed: int) -> None:
    """Write distinct images of each class."""
    random = np.random.default_rng(seed)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 256, (6, 6, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def split_folder(folder: Path) -> Path:
    for seed, split in enumerate(("train", "val", "test")):
        write(folder / split, 4, seed)
    return folder


def warnings(root: Path, caplog: pytest.LogCaptureFixture, data_dir: Path) -> Sequence[str]:
    data = image_data(image_folder(str(root), size=(6, 6)), data_dir=str(data_dir))
    data.setup("fit")
    caplog.clear()
    warn_copied_files(data.source, data.splits.subsets)
    return [record.getMessage() for record in caplog.records]


def test_distinct_images_get_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = split_folder(tmp_path / "photos")
    pixels = Image.open(root / "train" / "cat" / "0.png")
    pixels.save(root / "val" / "cat" / "same_pixels.bmp")  # other bytes
    for split in ("train", "test"):
        (root / split / "cat" / "empty.png").touch()  # left out, not copied
    assert warnings(root, caplog, tmp_path) == []


@pytest.mark.parametrize(
    ("copies", "expected"),
    [
        ([("train/cat/1.png", "val/cat/renamed.jpg")], ["1 of the 9 val images are copies of train images"]),
        ([("train/cat/1.png", "test/dog/in/x.png")], ["1 of the 9 test images are copies of train images"]),
        ([("val/dog/2.png", "test/dog/y.png")], ["1 of the 9 test images are copies of val images"]),
        (
            [("train/cat/1.png", "val/cat/a.png"), ("train/dog/1.png", "test/dog/b.png")],
            ["1 of the 9 val images are copies of train images", "1 of the 9 test images are copies of train images"],
        ),
        ([("train/cat/1.png", "train/cat/again.png")], []),
    ],
)
def test_copies_in_given_splits_are_counted_and_one_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, copies: list[tuple[str, str]], expected: list[str]
) -> None:
    root = split_folder(tmp_path / "photos")
    for original, copy in copies:
        (root / copy).parent.mkdir(exist_ok=True)
        shutil.copy(root / original, root / copy)
    found = warnings(root, caplog, tmp_path)
    assert [text.partition(": ")[2].partition(", so")[0] for text in found] == expected
    for text, (original, copy) in zip(found, copies, strict=False):
        assert text.endswith(f"such as {root / copy} of {root / original}")


def test_a_link_from_test_to_val_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = split_folder(tmp_path / "photos")
    shutil.rmtree(root / "test")
    (root / "test").symlink_to("val")
    (found,) = warnings(root, caplog, tmp_path)
    assert "8 of the 8 test images are copies of val images, so their metrics are too optimistic" in found


def test_copies_that_a_random_split_separates_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "photos"
    write(root, 30, 0)
    assert warnings(root, caplog, tmp_path) == []
    for name in CLASSES:
        shutil.copytree(root / name, root / name / "again")
    found = warnings(root, caplog, tmp_path)
    assert len(found) >= 2
    assert all("are copies of train images, so their metrics are too high" in text for text in found[:2])


def test_arrays_are_not_compared(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = image_data(digits(), data_dir=str(tmp_path))
    data.setup("fit")
    warn_copied_files(data.source, data.splits.subsets)
    assert not caplog.records
