"""The memory of decoding: reserved before an image is decoded, and limited over all threads."""

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageFile

from opsin.data import decode
from opsin.data.decode import decode_image
from opsin.data.image_memory import WEBP_HEADER, MemoryLimit, decoding_bytes, webp_bytes, webp_size
from opsin.data.types import BadImage


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def npy(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


RGB = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("content", "channels"),
    [
        (encoded(RGB), 3),
        (encoded(RGB, "JPEG"), 1),
        (encoded(RGB, "JPEG", progressive=True), 3),
        (encoded(RGB.convert("1")), 3),
        (encoded(RGB.convert("P"), "GIF"), 3),
        (encoded(RGB, "WEBP"), 3),
        (encoded(RGB.convert("RGBA")), 4),
        (encoded(Image.fromarray(np.zeros((300, 400), np.uint16))), 3),
        (npy(np.zeros((300, 400, 5), np.uint8)), 5),
        (npy(np.zeros((300, 400, 5))), 5),
    ],
)
def test_an_image_that_needs_too_much_memory_is_refused_before_it_is_decoded(
    content: bytes, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = decode_image(content, channels)
    assert whole.shape == (300, 400, channels)
    monkeypatch.setattr(decode, "LIMIT", 2 * 300 * 400)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("the image was decoded"))
    with pytest.raises(BadImage, match=r"need about .* GB of memory to decode, .*: use a smaller copy of it"):
        decode_image(content, channels)


@pytest.mark.parametrize("mode", ["RGB", "L", "I;16", "F", "RGBA"])
def test_large_images_are_copied_in_strips_with_the_same_pixels(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).integers(0, 65536, (301, 403), dtype=np.uint16)
    image = {
        "I;16": lambda: Image.fromarray(values),
        "F": lambda: Image.fromarray((values / 65535).astype(np.float32)),
    }.get(mode, lambda: Image.fromarray((values >> 8).astype(np.uint8)).convert(mode))()
    channels = 4 if mode == "RGBA" else 3
    content = encoded(image, "TIFF")
    whole = decode_image(content, channels)
    monkeypatch.setattr(decode, "_STRIP", 1000)
    assert np.array_equal(decode_image(content, channels), whole)


def test_threads_share_the_limit_and_never_wait_for_each_other() -> None:
    memory, lock, used, peak = MemoryLimit(100), threading.Lock(), 0, 0

    def work(count: int) -> None:
        nonlocal used, peak
        with memory.scope():
            memory.reserve(count // 2)
            memory.reserve(count)
            with lock:
                used += count
                peak = max(peak, used)
            time.sleep(0.001)
            with lock:
                used -= count

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [10, 60, 90, 30, 100] * 20))
    assert 90 <= peak <= 100
    with memory.scope():
        memory.reserve(100)  # all reserved memory was released


def test_memory_cannot_be_reserved_where_nothing_releases_it() -> None:
    memory = MemoryLimit(100)
    with memory.scope():
        memory.reserve(10)
    with pytest.raises(AssertionError, match="outside a scope"):
        memory.reserve(10)


@pytest.mark.parametrize("size", [(1, 1), (3, 700), (4097, 2)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("lossless", [False, True])
def test_the_size_of_a_webp_is_read_from_its_start(size: tuple[int, int], mode: str, lossless: bool) -> None:
    content = encoded(Image.new(mode, size, 1), "WEBP", lossless=lossless)
    animated = encoded(Image.new(mode, size), "WEBP", save_all=True, append_images=[Image.new(mode, size, 9)])
    assert webp_size(content[:WEBP_HEADER]) == webp_size(animated[:WEBP_HEADER]) == size
    assert webp_size(encoded(Image.new("RGB", size))[:WEBP_HEADER]) is None
    assert webp_size(content[: WEBP_HEADER - 1]) is None
    with Image.open(io.BytesIO(content)) as image:
        assert decoding_bytes(image, 3, size) == webp_bytes(size)


def test_a_webp_that_is_too_large_is_refused_before_its_decoder_allocates_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = bytearray(encoded(RGB, "WEBP", lossless=True))
    content[21:25] = b"\xff\xff\xff\x0f"
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("Pillow opened the file"))
    with pytest.raises(BadImage, match=r"16,384 x 16,384 values need about 3\.2 GB of memory to decode"):
        decode_image(bytes(content), 3)
