"""Every kind of image gives the same pixels as its file, and everything else is refused with a correction."""

import io
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from opsin.api.image_pixels import _lock_of, is_one_image, read_image
from opsin.data.cache.image_store import decode_rows, open_store
from opsin.data.cache.uncached_images import UncachedStore
from opsin.data.datasets import unlabeled_images
from opsin.data.types import BadImage
from opsin.errors import UserError
from opsin.inference.trained_model import TrainedModel
from opsin.interpretability.convolution.sample_images import sample
from opsin.models import mlp

RNG = np.random.default_rng(0)
COLOR = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
GRAY = RNG.integers(0, 256, (20, 30), dtype=np.uint8)
ALPHA = np.concatenate([COLOR, RNG.integers(0, 256, (20, 30, 1), dtype=np.uint8)], axis=2)


def model(channels: Any) -> TrainedModel:
    network = mlp(num_logits=2, in_channels=channels, image_size=(16, 16))
    return TrainedModel("made", network, ("a", "b"), (16, 16), (0.5,), (0.5,), channels, "squash", "bilinear", channels)


def png(pixels: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("pixels", [COLOR, GRAY, ALPHA], ids=["color", "gray", "alpha"])
def test_every_kind_of_image_equals_its_file(pixels: Any, channels: int, tmp_path: Path) -> None:
    trained = model(channels)
    file = tmp_path / "image.png"
    file.write_bytes(png(pixels))
    expected = trained.read(file)
    first = pixels[np.newaxis] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    kinds = [
        file,
        str(file),
        png(pixels),
        Image.open(file),
        pixels,
        np.asfortranarray(pixels),
        pixels / 255,
        (pixels / 255).astype(np.float32),
        torch.from_numpy(first.copy()),
        torch.from_numpy(first / 255),
        (torch.from_numpy(first.copy()).float() / 255).requires_grad_(),
    ]
    if pixels.ndim == 2:
        kinds += [pixels[:, :, np.newaxis], torch.from_numpy(pixels)]
    for kind in kinds:
        found = read_image(kind, trained)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, expected)


def test_booleans_and_half_precision_are_pixels() -> None:
    trained, mask = model(1), GRAY > 127
    expected = read_image(np.where(mask, 255, 0).astype(np.uint8), trained)
    for kind in (mask, torch.from_numpy(mask), torch.from_numpy(mask).bfloat16(), mask.astype(np.float16)):
        np.testing.assert_array_equal(read_image(kind, trained), expected)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floats_that_arithmetic_moved_beyond_the_range_are_pixels(kind: type) -> None:
    values = (COLOR / 255).astype(kind)
    values[0, 0], values[0, 1] = np.array(1.0009765625, kind), np.array(-1e-4, kind)
    pixels = COLOR.copy()
    pixels[0, 0], pixels[0, 1] = 255, 0
    expected = read_image(pixels, model(3))
    np.testing.assert_array_equal(read_image(values, model(3)), expected)
    np.testing.assert_array_equal(read_image(torch.from_numpy(values.transpose(2, 0, 1)), model(3)), expected)


@pytest.mark.parametrize("opened", [lambda file: io.BytesIO(file.read_bytes()), lambda file: file.open("rb")])
def test_an_open_file_is_refused_because_its_lines_are_no_images(opened: Any, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(COLOR))
    with opened(tmp_path / "a.png") as stream:
        with pytest.raises(UserError, match=r"is not an image: give its path, or its bytes, as read\(\) returns them"):
            is_one_image(stream)
        assert is_one_image(stream.read())


@pytest.mark.parametrize("images", [{"a": COLOR}, {"a.png", "b.png"}, frozenset(), {"a.png": 1}.keys()])
def test_images_without_an_order_are_refused_because_results_come_in_order(images: Any) -> None:
    with pytest.raises(UserError, match=rf"^a {type(images).__name__} of images is not accepted: give a list of them"):
        is_one_image(images)


def test_an_image_with_orientation_is_turned_as_its_file(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(COLOR).save(tmp_path / "turned.png", exif=exif)
    expected = read_image(tmp_path / "turned.png", model(3))
    np.testing.assert_array_equal(read_image(Image.open(tmp_path / "turned.png"), model(3)), expected)
    assert (expected != read_image(COLOR, model(3))).any()


def test_a_large_photograph_has_the_same_pixels_everywhere(tmp_path: Path) -> None:
    trained, exif, file = model(3), Image.Exif(), tmp_path / "photos" / "large.jpg"
    exif[0x0112] = 6
    file.parent.mkdir()
    Image.fromarray(sample("coffee")).save(file, exif=exif)
    expected = trained.read(file)
    opened = Image.open(file)
    for kind in (str(file), file.read_bytes(), opened):
        np.testing.assert_array_equal(read_image(kind, trained), expected)
    images = unlabeled_images(str(file.parent), 3)
    assert images is not None
    store = open_store(images, *trained.fit, cache_dir=tmp_path / "stores")
    uncached = UncachedStore(images, *trained.fit)
    for pixels in (
        store.take(np.array([0])),
        uncached.take(np.array([0])),
        decode_rows(store, np.array([0]), trained.fit),
    ):
        np.testing.assert_array_equal(pixels[0], expected)
    opened.load()  # Pillow decodes it at full scale
    assert opened.size == (600, 400)
    off = np.abs(read_image(opened, trained).astype(int) - expected)
    assert off.any()
    assert off.mean() < 1


REFUSED = {
    "channels first": (COLOR.transpose(2, 0, 1), "image.transpose(1, 2, 0)"),
    "tensor, channels last": (torch.from_numpy(COLOR), "image.permute(2, 0, 1)"),
    "stack of gray images": (np.zeros((9, 20, 30), np.uint8), "give list(images)"),
    "batch of an array": (np.zeros((2, 20, 30, 3), np.uint8), "give list(images)"),
    "batch of a tensor": (torch.zeros(2, 3, 20, 30), "give list(images)"),
    "one dimension": (np.zeros(12), "must be (H, W) or (H, W, C)"),
    "no pixels": (np.zeros((0, 20, 3)), "has no pixels"),
    "0 to 255 in floats": (COLOR.astype(float), "divide them by the value of white (255 for 8 bits)"),
    "normalized": (COLOR / 127.5 - 1, "do not normalize them"),
    "NaN": (np.full((20, 30), np.nan), "instead of 0 to 1: replace those that are not a number"),
    "one NaN": (np.where(np.eye(20) > 0, np.nan, 0.5), "replace those that are not a number"),
    "above 1": (np.full((20, 30), 1.01), "divide them by"),
    "below 0": (np.full((20, 30), -0.01), "do not normalize them"),
    "whole numbers": (COLOR.astype(np.int64), "uint8 in 0..255"),
    "another object": (3.5, "float is not an image"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_values_that_are_not_images_are_refused_with_a_correction(case: str) -> None:
    image, way_out = REFUSED[case]
    with pytest.raises(UserError) as error:
        read_image(image, model(3))
    assert way_out in str(error.value)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "GIF"])
def test_a_damaged_pillow_image_is_a_bad_image(kind: str) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(stream, kind)
    opened = Image.open(io.BytesIO(stream.getvalue()[: stream.tell() // 2]))
    with pytest.raises(BadImage, match="damaged: "):
        read_image(opened, model(3))


class Slow(io.BytesIO):
    """A file whose reads let other threads run."""

    def read(self, size: int | None = -1) -> bytes:
        time.sleep(0.001)
        return super().read(size)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_threads_can_read_the_same_pillow_image(kind: str) -> None:
    stream, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    noise = np.random.default_rng(0).integers(0, 256, (150, 150, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, kind, exif=exif)
    opened, trained = Image.open(Slow(stream.getvalue())), model(3)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda image: read_image(image, trained), [opened] * 16))
    expected = read_image(stream.getvalue(), trained)
    for pixels in found:
        np.testing.assert_array_equal(pixels, expected)


def test_a_pillow_image_waits_only_for_a_thread_that_reads_it() -> None:
    content, trained = png(COLOR), model(3)
    one, *others = [Image.open(io.BytesIO(content)) for _ in range(9)]
    other = next(image for image in others if _lock_of(image) is not _lock_of(one))
    with ThreadPoolExecutor(2) as pool, _lock_of(one):
        waiting = pool.submit(read_image, one, trained)
        pool.submit(read_image, other, trained).result(timeout=10)
        assert not waiting.done()
    np.testing.assert_array_equal(waiting.result(), read_image(content, trained))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("closed", ["file", "image"])
def test_a_pillow_image_of_a_closed_file_is_refused_with_a_correction(kind: str, closed: str) -> None:
    stream = io.BytesIO()
    Image.fromarray(COLOR).save(stream, kind)
    opened = Image.open(stream)
    (stream if closed == "file" else opened).close()
    with pytest.raises(UserError, match=r"call image\.load\(\) while the file is open"):
        read_image(opened, model(3))


def test_unreadable_files_are_bad_images(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    for bad in (tmp_path, tmp_path / "absent.png", tmp_path / "text.png", b"", b"no image"):
        with pytest.raises(BadImage, match="give a list of its files" if bad == tmp_path else None):
            read_image(bad, model(3))
