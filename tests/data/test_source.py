"""Arrays, files and facts of a user's own dataset: each mistake gives one message before anything is read."""

import tracemalloc
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from opsin.data.cache.image_store import open_store
from opsin.data.cache.uncached_images import UncachedStore
from opsin.data.fit import Fit
from opsin.data.source import ArrayImages, FileImages, Source
from opsin.errors import UserError

PIXELS = np.zeros((4, 5, 6, 3), np.uint8)
TARGETS = np.array([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("pixels", "found"),
    [
        ((PIXELS / 255).astype("float32"), r"float32 of shape \(4, 5, 6, 3\)"),
        (PIXELS.astype(np.int64), "int64"),
        (PIXELS.astype(np.uint16), "uint16"),
        (PIXELS[..., 0], r"uint8 of shape \(4, 5, 6\): .*uint8 \(N, H, W, C\).* C = 1"),
        (torch.from_numpy(PIXELS), r"torch\.uint8"),
        (PIXELS.tolist(), "an object of type list"),
    ],
)
def test_pixels_of_another_type_or_shape_are_refused(pixels: Any, found: str) -> None:
    with pytest.raises(UserError, match=f"the pixels of mine are {found}"):
        ArrayImages(pixels, TARGETS, "mine")


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (TARGETS[:3], r"has 4 images, but targets of shape \(3,\): give one class for each image"),
        (np.eye(4), r"has 4 images, but targets of shape \(4, 4\)"),
        (TARGETS.astype(float), "are float64 of shape .* as an integer, from 0 on"),
        (np.array(["cat", "dog", "cat", "dog"]), "are <U3 of shape"),
    ],
)
def test_targets_that_are_not_one_integer_for_each_image_are_refused(
    targets: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        ArrayImages(PIXELS, targets, "mine")
    with pytest.raises(UserError, match=message):
        FileImages(tmp_path, tuple("abcd"), targets, channels=3)


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.int16, np.uint64, ">i8", list])
def test_integers_of_any_type_become_int64(kind: Any) -> None:
    targets: Any = TARGETS.tolist() if kind is list else TARGETS.astype(kind)
    images = ArrayImages(PIXELS, targets, "mine")
    files = FileImages("folder", tuple("abcd"), targets, channels=3)  # type: ignore[arg-type]
    for found in (images, files):
        assert found.targets.dtype == np.dtype(np.int64)
        assert found.targets.dtype.isnative
        assert found.targets.tolist() == TARGETS.tolist()
    assert images.fingerprint == ArrayImages(PIXELS, TARGETS, "mine").fingerprint
    assert files.locate(0) == str(Path("folder", "a"))


def test_arrays_of_the_right_type_are_not_copied() -> None:
    pixels, targets = np.zeros((1000, 32, 32, 3), np.uint8), np.zeros(1000, np.int64)
    tracemalloc.start()
    images = ArrayImages(pixels, targets, "mine")
    Source("mine", ("a", "b"), 3, (32, 32), None, None, {"train": images})
    assert tracemalloc.get_traced_memory()[1] < 20_000
    tracemalloc.stop()
    assert images.pixels is pixels
    assert images.targets is targets


@dataclass
class OwnImages:
    """Images from a class of the user."""

    pixels: Any = field(default_factory=lambda: PIXELS)
    targets: Any = field(default_factory=lambda: TARGETS)
    fingerprint: str = "own"
    channels: int = 3

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, index: int, fit: Fit | None = None) -> Any:
        return self.pixels[index]

    def locate(self, index: int) -> str:
        return f"own image {index}"


def source(
    images: Any, *, split: str = "train", classes: Any = ("a", "b"), channels: int = 3, size: tuple[int, int] = (5, 6)
) -> Source:
    others = {} if split == "train" else {"train": OwnImages()}
    return Source("mine", classes, channels, size, None, None, {**others, split: images})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": OwnImages(targets=TARGETS + 1)}, "targets from 1 to 2, but .* 2 classes: number them from 0 to 1"),
        ({"images": OwnImages(targets=TARGETS - 1)}, "targets from -1 to 0"),
        ({"images": ArrayImages(PIXELS, TARGETS * 2, "mine"), "split": "test"}, "'test' .*targets from 0 to 2"),
        ({"images": OwnImages(targets=TARGETS[1:])}, r"has 4 images, but targets of shape \(3,\)"),
        ({"images": OwnImages(targets=TARGETS / 2)}, "are float64"),
        ({"images": OwnImages(), "channels": 1}, "has images of 3 channels, but the dataset states 1"),
        ({"images": ArrayImages(PIXELS.transpose(0, 3, 1, 2), TARGETS, "m")}, r"of 6 channels.*are \(N, H, W, C\)"),
        ({"images": OwnImages(), "split": "validation"}, "the split 'validation': call its splits train, val, test"),
        ({"images": OwnImages(), "classes": (0, 1)}, "give their names, as text"),
        ({"images": OwnImages(targets=TARGETS * 0), "classes": ("a",)}, r"classes \['a'\]: a classifier needs two"),
        ({"images": OwnImages(), "classes": ()}, r"classes \[\]: a classifier needs two"),
        ({"images": OwnImages(), "classes": ("b", "a", "b")}, "two classes 'b': give each a name of its own"),
        ({"images": OwnImages(), "size": (5, 0)}, r"is \(5, 0\): give height and width in pixels"),
        ({"images": OwnImages(PIXELS[:0], TARGETS[:0])}, "'train' .*has no images"),
        ({"images": OwnImages(PIXELS[:0], TARGETS[:0]), "split": "val"}, "'val' .*has no images: .* or leave it out"),
        ({"images": ArrayImages(PIXELS[:0], TARGETS[:0], "m"), "split": "test"}, "'test' .*has no images"),
    ],
)
def test_facts_that_contradict_the_images_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        source(**changes)


def test_a_dataset_without_training_images_is_refused() -> None:
    with pytest.raises(UserError, match="the dataset 'mine' has no split 'train'"):
        Source("mine", ("a", "b"), 3, (5, 6), None, None, {"test": OwnImages()})


@pytest.mark.parametrize(
    ("pixels", "found"),
    [
        (PIXELS / 255, "float64"),
        (PIXELS[:, 1:], r"uint8 of shape \(4, 6, 3\)"),
        (PIXELS[..., :1], r"uint8 of shape \(5, 6, 1\)"),
        (["pixels"] * 4, "an object of type str"),
    ],
)
def test_pixels_that_a_class_of_the_user_reads_wrongly_are_refused(pixels: Any, found: str, tmp_path: Path) -> None:
    images, message = (
        OwnImages(pixels),
        rf"own image 0: OwnImages\.read returns {found}.*, not uint8 of shape \(5, 6, 3\)",
    )
    with pytest.raises(UserError, match=message):
        open_store(images, (5, 6), cache_dir=tmp_path, workers=1)
    with pytest.raises(UserError, match=message):
        UncachedStore(images, (5, 6), "squash", "bilinear")
    assert not list(tmp_path.glob("**/pixels.npy"))
