"""Bad and unusual images of every kind are decoded correctly or refused with the reason."""

import io
import os
import struct
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, PngImagePlugin

from opsin.data import decode
from opsin.data.decode import FORMATS, decode_image, image_pixels
from opsin.data.types import BadImage

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (8, 10, 3), dtype=np.uint8)
GRAY = RNG.integers(0, 256, (8, 10), dtype=np.uint8)
SMOOTH = np.stack(np.meshgrid(np.arange(0, 240, 6), np.arange(0, 240, 8), [128]), -1)[:, :, 0].astype(np.uint8)


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tiff(values: np.ndarray, photometric: str, **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, photometric=photometric, **options)
    return file.getvalue()


def png16(values: np.ndarray, color_type: int) -> bytes:
    """Return a PNG of 16-bit samples (H, W, C); Pillow cannot write them in color."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def header_only_png(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b""))
    )


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_color_is_exact_from_bytes_and_from_a_file(kind: str, tmp_path: Path) -> None:
    data = encoded(RGB, kind)
    (tmp_path / "image").write_bytes(data)  # no suffix: the content decides the format
    np.testing.assert_array_equal(decode_image(data, 3), RGB)
    np.testing.assert_array_equal(decode_image(tmp_path / "image", 3), RGB)


def test_gray_has_one_channel_or_three_equal_channels() -> None:
    data = encoded(GRAY)
    np.testing.assert_array_equal(decode_image(data, 1), GRAY[..., None])
    np.testing.assert_array_equal(decode_image(data, 3), np.repeat(GRAY[..., None], 3, 2))


def test_color_read_as_gray_is_luma() -> None:
    expected = RGB @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(decode_image(encoded(RGB), 1)[..., 0], expected, atol=1)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "JPEG2000"])
def test_lossy_color_is_close(kind: str) -> None:
    image = decode_image(encoded(SMOOTH, kind), 3)
    assert image.shape == SMOOTH.shape
    assert np.abs(image.astype(int) - SMOOTH).mean() < 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    # The inverse, in NumPy, of the orientation that the table of the EXIF standard gives.
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, 1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decode_image(encoded(RGB, kind, exif=exif), 3), undo(RGB))


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01", b"Exif\0\0"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_changes_no_pixels_and_does_not_warn(exif: bytes, kind: str) -> None:
    plain = decode_image(encoded(SMOOTH, kind), 3)
    np.testing.assert_array_equal(decode_image(encoded(SMOOTH, kind, exif=exif), 3), plain)


def test_cmyk_becomes_rgb() -> None:
    cmyk = Image.fromarray(SMOOTH).convert("CMYK")
    assert np.abs(decode_image(encoded(cmyk, "JPEG", quality=95), 3).astype(int) - SMOOTH).mean() < 6
    np.testing.assert_array_equal(decode_image(encoded(cmyk, "TIFF"), 3), SMOOTH)


@pytest.mark.parametrize("transparency", [None, 0, b"\0\x80" + b"\xff" * 254])
def test_a_palette_gives_its_colors_with_or_without_transparency(transparency: int | bytes | None) -> None:
    palette = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
    indices = RNG.integers(0, 256, (8, 10), dtype=np.uint8)
    image = Image.frombytes("P", (10, 8), indices.tobytes())
    image.putpalette(palette.tobytes())
    options = {} if transparency is None else {"transparency": transparency}
    np.testing.assert_array_equal(decode_image(encoded(image, **options), 3), palette[indices])


def test_alpha_is_dropped_and_the_colors_are_kept() -> None:
    alpha = RNG.integers(0, 256, (8, 10, 1), dtype=np.uint8)
    np.testing.assert_array_equal(decode_image(encoded(np.dstack([RGB, alpha])), 3), RGB)
    np.testing.assert_array_equal(decode_image(encoded(np.dstack([GRAY, alpha])), 1)[..., 0], GRAY)
    np.testing.assert_array_equal(decode_image(encoded(np.dstack([GRAY, alpha])), 3), np.dstack([GRAY] * 3))


def paletted(colors: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    image = Image.frombytes("P", (10, 8), GRAY.tobytes())
    image.putpalette(colors.astype(np.uint8).tobytes())
    return encoded(image, kind, **options)


def test_transparent_colors_are_an_alpha_channel_if_it_is_read() -> None:
    levels, colors = np.arange(256), np.stack([np.arange(256), np.arange(256)[::-1], np.full(256, 7)], 1)
    alpha = bytes(range(255, -1, -1))
    rgba = np.dstack([colors[GRAY], 255 - GRAY])
    np.testing.assert_array_equal(decode_image(paletted(colors, transparency=alpha), 4), rgba)
    gray = paletted(np.stack([levels] * 3, 1), transparency=alpha)
    np.testing.assert_array_equal(decode_image(gray, 2), np.dstack([GRAY, 255 - GRAY]))
    np.testing.assert_array_equal(decode_image(gray, 4), np.dstack([GRAY, GRAY, GRAY, 255 - GRAY]))
    one = int(GRAY[2, 3])
    holes = np.where(one == GRAY, 0, 255)
    for kind in ("PNG", "GIF"):
        pixels = decode_image(paletted(colors, kind, transparency=one), 4)
        np.testing.assert_array_equal(pixels[..., 3], holes)
    np.testing.assert_array_equal(decode_image(encoded(GRAY, transparency=one), 2), np.dstack([GRAY, holes]))
    color = decode_image(encoded(RGB, transparency=tuple(RGB[2, 3].tolist())), 4)
    np.testing.assert_array_equal(color, np.dstack([RGB, np.where((RGB[2, 3] == RGB).all(-1), 0, 255)]))


@pytest.mark.parametrize(
    ("data", "channels", "message"),
    [
        (paletted(np.stack([np.arange(256)] * 3, 1)), 4, "has mode P instead of 4 channels"),  # nothing is transparent
        (paletted(RNG.integers(0, 256, (256, 3)), transparency=3), 2, r"has the shape \(8, 10, 4\) instead of"),
        (encoded(GRAY, transparency=3), 4, r"has the shape \(8, 10, 2\) instead of"),
        (encoded(RGB, transparency=(300, 2, 3)), 4, "has mode RGB instead of 4 channels"),  # as in a file of 16 bits
    ],
)
def test_no_channel_is_added_or_dropped_to_read_alpha(data: bytes, channels: int, message: str) -> None:
    with pytest.raises(BadImage, match=message):
        decode_image(data, channels)


def test_bilevel_images_are_black_and_white() -> None:
    bits = GRAY > 127
    np.testing.assert_array_equal(decode_image(encoded(bits), 1)[..., 0], bits * np.uint8(255))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PGM"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bit_gray_is_scaled_not_clipped(kind: str, channels: int) -> None:
    deep = RNG.integers(0, 65536, (8, 10), dtype=np.uint16)
    data = b"P5 10 8 65535\n" + deep.astype(">u2").tobytes() if kind == "PGM" else encoded(deep, kind)
    image = decode_image(data, channels)
    assert image.shape == (8, 10, channels)
    np.testing.assert_allclose(image[..., -1], deep / 257, atol=0.501)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_tiff_that_stores_white_as_zero_is_inverted(kind: type, compression: str | None, channels: int) -> None:
    top = 1 if kind is np.float32 else np.iinfo(kind).max
    values = np.rint(RNG.random((8, 10)) * top).astype(kind) if top > 1 else RNG.random((8, 10)).astype(kind)
    data = tiff(top - values, "miniswhite", compression=compression)
    found = decode_image(data, channels)
    np.testing.assert_allclose(found[..., -1], values * (255.0 / top), atol=0.501)
    opened = Image.open(io.BytesIO(data))
    opened.load()
    np.testing.assert_array_equal(image_pixels(opened, channels), found)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_color_in_separate_planes_is_decoded_or_refused(bits: int, compression: str | None, byteorder: str) -> None:
    values = (RGB.astype(np.uint16) * 257).astype(f"u{bits // 8}") if bits == 16 else RGB
    options = {"planarconfig": "separate", "compression": compression, "byteorder": byteorder}
    data = tiff(values.transpose(2, 0, 1), "rgb", **options)
    if bits == 16 and compression is None:
        with pytest.raises(BadImage, match="16 bits per channel in separate planes: save it with interleaved"):
            decode_image(data, 3)
    else:
        np.testing.assert_array_equal(decode_image(data, 3), RGB)


@pytest.mark.parametrize("kind", ["f4", "i4", "i2", "u2"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_both_byte_orders_are_decoded_or_refused(kind: str, compression: str | None, byteorder: str) -> None:
    values = (GRAY > 127).astype(kind) if kind == "f4" else (GRAY.astype(np.int64) * 128).astype(kind)
    data = tiff(values, "minisblack", compression=compression, byteorder=byteorder)
    if (byteorder, compression) == (">", "zlib") and kind != "u2":
        with pytest.raises(BadImage, match="compressed values in big-endian order: save it in little-endian order"):
            decode_image(data, 1)
    else:
        white = 1 if kind == "f4" else 65535
        np.testing.assert_allclose(decode_image(data, 1)[..., 0], values * (255.0 / white), atol=0.501)


def test_signed_values_of_eight_bits_are_refused() -> None:
    with pytest.raises(BadImage, match=r"^signed values of 8 bits"):
        decode_image(tiff(GRAY.view(np.int8), "minisblack"), 1)


def test_sixteen_bit_color_is_scaled_not_clipped() -> None:
    deep = RNG.integers(0, 65536, (8, 10, 3), dtype=np.uint16)
    np.testing.assert_allclose(decode_image(png16(deep, 2), 3), deep / 257, atol=1)
    gray_alpha = RNG.integers(0, 65536, (8, 10, 2), dtype=np.uint16)
    np.testing.assert_allclose(decode_image(png16(gray_alpha, 4), 1)[..., 0], gray_alpha[..., 0] / 257, atol=1)


def test_floats_in_the_unit_interval_are_scaled_and_others_are_refused() -> None:
    unit = RNG.random((8, 10)).astype(np.float32)
    np.testing.assert_allclose(decode_image(encoded(unit, "TIFF"), 1)[..., 0], unit * 255, atol=0.501)
    with pytest.raises(BadImage, match=r"^pixel values outside 0\.\.1 \(mode F\): their range is unknown$"):
        decode_image(encoded(unit * 300, "TIFF"), 1)
    with pytest.raises(BadImage, match=r"outside 0\.\.1 "):
        decode_image(encoded(unit * np.nan, "TIFF"), 1)
    with pytest.raises(BadImage, match=r"outside 0\.\.65535 "):
        decode_image(encoded(np.full((8, 10), 70_000, np.int32), "TIFF"), 3)


def test_lab_is_converted_to_color_and_gray() -> None:
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = encoded(to_lab.apply(Image.fromarray(SMOOTH)), "TIFF")
    assert np.abs(decode_image(lab, 3).astype(int) - SMOOTH).mean() < 4
    assert decode_image(lab, 1).shape == (*SMOOTH.shape[:2], 1)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_an_animation_gives_its_first_frame(kind: str) -> None:
    first, second = (Image.new("RGB", (12, 9), color) for color in ("red", "blue"))
    options = {"lossless": True} if kind == "WEBP" else {}
    image = decode_image(encoded(first, kind, save_all=True, append_images=[second], **options), 3)
    np.testing.assert_array_equal(image, np.broadcast_to(np.uint8([255, 0, 0]), (9, 12, 3)))


def test_bytes_after_the_end_are_ignored() -> None:
    data = encoded(SMOOTH, "JPEG")
    np.testing.assert_array_equal(decode_image(data + b"\0trailing\xff\xd8" * 50, 3), decode_image(data, 3))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
@pytest.mark.parametrize("kept", [0.4, 0.8])
def test_a_truncated_file_is_refused(kind: str, kept: float) -> None:
    noise = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(noise, kind)
    with pytest.raises(BadImage):
        decode_image(data[: int(len(data) * kept)], 3)


def test_a_truncated_jpeg_is_reported_as_truncated(tmp_path: Path) -> None:
    noise = encoded(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8), "JPEG")
    (tmp_path / "cut.jpg").write_bytes(noise[:-500])
    with pytest.raises(BadImage, match=r"^damaged: image file is truncated \(\d+ bytes not processed\)$"):
        decode_image(tmp_path / "cut.jpg", 3)


@pytest.mark.parametrize(
    "data", [b"hello, I am no image", b"\0" * 500, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_a_file_that_is_not_an_image_is_refused(data: bytes) -> None:
    with pytest.raises(BadImage, match=r"^not an image of a known format, or damaged at its start$"):
        decode_image(data, 3)


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
        ("HEIC", b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic"),
        ("JPEG XL", b"\0\0\0\x0cJXL \r\n\x87\n"),
        ("Photoshop", b"8BPS\0\1"),
        ("SVG", b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="http://www.w3.org/2000/svg"/>'),
    ],
)
def test_a_widespread_format_that_is_not_read_is_named(name: str, start: bytes) -> None:
    with pytest.raises(BadImage, match=f"^{name} is not a format that can be read: convert it to JPEG or PNG$"):
        decode_image(start + bytes(100), 3)


def test_the_guide_lists_the_formats() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "own_images.md").read_text(encoding="utf-8")
    assert all(name.replace("JPEG2000", "JPEG 2000").lower() in guide.lower() for name in FORMATS)


@pytest.mark.skipif(os.name != "posix", reason="needs sparse files")
def test_a_large_file_that_is_not_an_image_is_refused_without_reading_it_whole(tmp_path: Path) -> None:
    with (tmp_path / "film.mp4").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(BadImage, match="not an image"):
        decode_image(tmp_path / "film.mp4", 3)


def test_a_large_image_file_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = RNG.integers(0, 256, (40, 30, 3), dtype=np.uint8)
    (tmp_path / "image.tif").write_bytes(encoded(pixels, "TIFF"))
    monkeypatch.setattr(decode, "_LARGE", 100)
    np.testing.assert_array_equal(decode_image(tmp_path / "image.tif", 3), pixels)


def test_empty_missing_and_unreadable_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(BadImage, match=r"^zero bytes$"):
        decode_image(tmp_path / "empty.jpg", 3)
    with pytest.raises(BadImage, match=r"^cannot be read: No such file or directory$"):
        decode_image(tmp_path / "absent.jpg", 3)
    with pytest.raises(BadImage, match=r"^cannot be read: Is a directory$"):
        decode_image(tmp_path, 3)


def test_decompression_bomb_is_refused_with_the_limit() -> None:
    with pytest.raises(BadImage, match=r"^more than 178,956,970 pixels: use a smaller copy of it$"):
        decode_image(header_only_png(20_000, 20_000), 3)


def test_large_but_allowed_image_does_not_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)  # Pillow warns from here and refuses from twice as many
    np.testing.assert_array_equal(decode_image(encoded(RGB), 3), RGB)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)
    with pytest.raises(BadImage, match=r"^more than 60 pixels"):
        decode_image(encoded(RGB), 3)


def test_compressed_text_bomb_is_refused() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "a" * 5_000_000, zip=True)
    with pytest.raises(BadImage, match=r"^damaged: Decompressed data too large"):
        decode_image(encoded(RGB, pnginfo=text), 3)


def test_a_decoder_that_fails_in_python_gives_no_message_of_python() -> None:
    with pytest.raises(BadImage, match=r"^damaged: its content is not that of its format$"):
        decode_image(b"II*\x00" + encoded(RGB, "JPEG")[4:], 4)


def test_every_failure_of_a_damaged_file_is_a_bad_image() -> None:
    rng = np.random.default_rng(1)
    refused = 0
    for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000"):
        sound = np.frombuffer(encoded(SMOOTH, kind), np.uint8)
        for _ in range(60):
            damaged = sound.copy()
            where = rng.integers(0, min(len(sound), 400), 4)
            damaged[where] = rng.integers(0, 256, 4)
            try:
                image = decode_image(damaged.tobytes(), 3)
            except BadImage:
                refused += 1
            else:
                assert image.dtype == np.uint8
                assert image.ndim == 3
    assert refused > 50


def test_threads_agree_and_do_not_change_the_warning_filters() -> None:
    before = list(warnings.filters)
    data = encoded(SMOOTH, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01")
    expected = decode_image(data, 3)
    with ThreadPoolExecutor(8) as pool:
        for image in pool.map(lambda _: decode_image(data, 3), range(200)):
            np.testing.assert_array_equal(image, expected)
    assert list(warnings.filters) == before


def test_other_warnings_still_show_while_images_are_decoded() -> None:
    stop = threading.Event()
    data = encoded(SMOOTH, "JPEG")

    def decode() -> None:
        while not stop.is_set():
            decode_image(data, 3)

    thread = threading.Thread(target=decode)
    thread.start()
    try:
        for _ in range(200):
            with pytest.raises(UserWarning, match="mine"):
                warnings.warn("mine", stacklevel=1)
    finally:
        stop.set()
        thread.join()
