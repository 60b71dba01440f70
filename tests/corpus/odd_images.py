"""Valid but unusual images, and images with false metadata: sizes, EXIF, ICC, frames, chunks and arrays."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from corpus.case import Case, Ending
from corpus.image_formats import picture, saved
from opsin.data.decode import decode_image
from opsin.data.fit import fit_image
from opsin.data.types import BadImage

GRAY = np.arange(18 * 24, dtype=np.uint16).reshape(18, 24) * 150


def odd_image_cases() -> Iterator[Case]:
    """Yield all odd images; each is decoded to gray and RGB, and resized by every method."""
    for group in (_modes, _tiffs, _frames, _pngs, _sizes, _lies, _metadata, _portable, _bitmaps, _jpegs):
        for name, (content, ends) in group().items():
            yield Case(f"image/odd/{name}", _decodes(content), ends)
    for name, (content, channels, ends) in _arrays().items():
        yield Case(f"image/array/{name}", _decodes_bands(content, channels), ends)


Content = bytes | Callable[[], bytes]
Found = dict[str, tuple[Content, Ending]]


def _decodes(content: Content) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        made = content if isinstance(content, bytes) else content()
        pixels = decode_image(made, 3)
        assert pixels.dtype == np.uint8
        assert pixels.shape[2:] == (3,)
        assert decode_image(made, 1).shape == (*pixels.shape[:2], 1)
        for resize in ("squash", "crop", "letterbox"):
            try:
                assert fit_image(pixels, (20, 30), resize).shape == (20, 30, 3)
            except BadImage as error:
                assert resize == "crop" and "crop" in str(error)  # noqa: PT017, PT018 - an aspect ratio out of reach

    return act


def _decodes_bands(content: Content, channels: int) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        (folder / "image").write_bytes(content if isinstance(content, bytes) else content())
        pixels = decode_image(folder / "image", channels)
        assert pixels.dtype == np.uint8
        assert pixels.shape[2:] == (channels,)

    return act


def _modes() -> Found:
    found: Found = {}
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        found[f"png {mode}"] = (saved(picture().convert(mode), "PNG"), "answer")
        found[f"webp from {mode}"] = (saved(picture().convert(mode).convert("RGBA"), "WEBP", lossless=True), "answer")
    palette = picture().convert("P")
    found["png palette with transparency"] = (saved(palette, "PNG", transparency=bytes(range(200))), "answer")
    found["png palette of two colors"] = (saved(picture().convert("1").convert("P"), "PNG", bits=1), "answer")
    found["png gray with transparency"] = (saved(picture().convert("L"), "PNG", transparency=7), "answer")
    found["png rgb with transparency"] = (saved(picture(), "PNG", transparency=(1, 2, 3)), "answer")
    found["png 16 bit"] = (saved(Image.fromarray(GRAY), "PNG"), "answer")
    found["png 16 bit rgb"] = (_png(struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0), b"\0" + bytes(range(12))), "answer")
    found["gif transparent"] = (saved(palette, "GIF", transparency=3), "answer")
    found["jpeg cmyk"] = (saved(picture().convert("CMYK"), "JPEG"), "answer")
    found["jpeg gray"] = (saved(picture().convert("L"), "JPEG"), "answer")
    found["jpeg 2000 16 bit"] = (saved(Image.fromarray(GRAY), "JPEG2000"), "either")
    found["jpeg 2000 alpha"] = (saved(picture().convert("RGBA"), "JPEG2000"), "answer")
    return found


def _tiffs() -> Found:
    found: Found = {}
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "YCbCr"):
        image = picture() if mode == "LAB" else picture().convert(mode)
        if mode == "LAB":
            image = Image.merge("LAB", picture().split())
        found[f"tiff {mode}"] = (saved(image, "TIFF"), "either" if mode == "YCbCr" else "answer")  # not even by Pillow
    found["tiff 16 bit"] = (saved(Image.fromarray(GRAY), "TIFF"), "answer")
    found["tiff 16 bit big-endian"] = (_swapped_tiff(), "either")
    found["tiff 32 bit"] = (saved(Image.fromarray(GRAY.astype(np.int32)), "TIFF"), "answer")
    found["tiff 32 bit out of range"] = (saved(Image.fromarray(GRAY.astype(np.int32) * 9000), "TIFF"), "refusal")
    unit = np.linspace(0, 1, 18 * 24, dtype=np.float32).reshape(18, 24)
    found["tiff float"] = (saved(Image.fromarray(unit), "TIFF"), "answer")
    for name, value in (("nan", np.nan), ("infinite", np.inf), ("negative", -0.1), ("large", 70000.0)):
        odd = unit.copy()
        odd[3, 3] = value
        found[f"tiff float {name}"] = (saved(Image.fromarray(odd), "TIFF"), "refusal")
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd", "lzma"):
        content = saved(picture(), "TIFF", compression=compression)
        found[f"tiff {compression}"] = (content, "answer")
        found[f"tiff {compression} cut"] = (content[: len(content) * 2 // 3], "either")
    found["tiff group4"] = (saved(picture().convert("1"), "TIFF", compression="group4"), "answer")
    plain = saved(picture(), "TIFF")
    found["tiff with a directory that follows itself"] = (_tiff_that_loops(plain), "either")
    found["tiff whose directory is outside"] = (plain[:4] + struct.pack("<I", 10**9) + plain[8:], "refusal")
    found["tiff whose directory is the header"] = (plain[:4] + struct.pack("<I", 0) + plain[8:], "either")
    found["big tiff"] = (saved(picture(), "TIFF", big_tiff=True), "answer")
    for tag, name in (
        (256, "width"),
        (257, "height"),
        (277, "samples"),
        (258, "bits"),
        (273, "offsets"),
        (279, "sizes"),
    ):
        for value in (0, 1, 2**31 - 1, 2**32 - 1):
            found[f"tiff {name} {value}"] = (_with_tag(plain, tag, value), "either")
    return found


def _frames() -> Found:
    red, others = Image.new("RGB", (24, 18), "red"), [Image.new("RGB", (24, 18), c) for c in ("lime", "blue")]
    found: Found = {}
    for kind in ("GIF", "PNG", "WEBP", "TIFF", "AVIF", "MPO"):
        content = saved(red, kind, save_all=True, append_images=others)
        found[f"frames {kind}"] = (content, "answer")
        found[f"frames {kind} cut in the last"] = (content[:-25], "either")
    gif = saved(red, "GIF", save_all=True, append_images=others)
    at = gif.index(b"\x2c")  # the first frame
    for name, frame in (("outside", (9000, 9000, 24, 18)), ("of size 0", (0, 0, 0, 0)), ("huge", (0, 0, 65535, 65535))):
        found[f"gif frame {name}"] = (gif[: at + 1] + struct.pack("<4H", *frame) + gif[at + 9 :], "either")
    found["gif canvas huge"] = (gif[:6] + struct.pack("<2H", 65535, 65535) + gif[10:], "refusal")
    found["gif canvas of size 0"] = (gif[:6] + struct.pack("<2H", 0, 0) + gif[10:], "either")
    found["gif of many frames"] = (gif[:-1] + gif[at:-1] * 3000 + b";", "either")
    return found


def _chunk(kind: bytes, content: bytes, crc: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + content) if crc is None else crc
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def _png(header: bytes, rows: bytes, *before: bytes, end: bytes = b"") -> bytes:
    chunks = (_chunk(b"IHDR", header), *before, _chunk(b"IDAT", zlib.compress(rows)), end or _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _pngs() -> Found:
    header, rows = struct.pack(">IIBBBBB", 4, 3, 8, 2, 0, 0, 0), (b"\0" + bytes(range(12))) * 3
    bomb = zlib.compress(bytes(200 * 2**20), 9)
    found: Found = {
        "png plain": (_png(header, rows), "answer"),
        "png without end": (_png(header, rows)[:-12], "either"),
        "png header twice": (_png(header, rows, _chunk(b"IHDR", header)), "either"),
        "png checksum of header": (_png(header, rows).replace(_chunk(b"IHDR", header)[-4:], b"abcd", 1), "either"),
        "png checksum of pixels": (
            _png(header, rows).replace(_chunk(b"IDAT", zlib.compress(rows))[-4:], b"abcd"),
            "either",
        ),
        "png palette missing": (_png(struct.pack(">IIBBBBB", 4, 3, 8, 3, 0, 0, 0), (b"\0" + b"\7" * 4) * 3), "either"),
        "png palette too short": (
            _png(struct.pack(">IIBBBBB", 4, 3, 8, 3, 0, 0, 0), (b"\0" + b"\7" * 4) * 3, _chunk(b"PLTE", b"abc")),
            "either",
        ),
        "png text that expands": (_png(header, rows, _chunk(b"zTXt", b"a\0\0" + bomb)), "either"),
        "png profile that expands": (_png(header, rows, _chunk(b"iCCP", b"a\0\0" + bomb)), "either"),
        "png unicode text that expands": (_png(header, rows, _chunk(b"iTXt", b"a\0\1\0\0\0" + bomb)), "either"),
        "png pixels that expand": (_png(header, bytes(200 * 2**20)), "either"),
        "png rows missing": (_png(header, rows[:20]), "either"),
        "png bad filter": (_png(header, (b"\x0b" + bytes(12)) * 3), "either"),
        "png chunk longer than the file": (_png(header, rows)[:33] + struct.pack(">I", 2**31 - 1) + b"IDAT", "refusal"),
        "png chunk of negative size": (_png(header, rows)[:33] + b"\xff\xff\xff\xffIDAT" + bytes(99), "refusal"),
        "png interlaced": (_png(struct.pack(">IIBBBBB", 4, 3, 8, 2, 0, 0, 1), rows * 2), "either"),
        "apng without frames": (_png(header, rows, _chunk(b"acTL", struct.pack(">II", 0, 0))), "either"),
        "apng of many frames": (_png(header, rows, _chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))), "either"),
    }
    for depth, color in ((3, 2), (1, 2), (16, 3), (8, 1), (8, 7), (0, 0), (255, 255)):
        odd = _png(struct.pack(">IIBBBBB", 4, 3, depth, color, 0, 0, 0), rows)
        found[f"png depth {depth} color {color}"] = (odd, "either")
    return found


def _sizes() -> Found:
    found: Found = {}
    for width, height in ((1, 1), (1, 2), (1, 30_000), (30_000, 1), (3, 10_000)):
        for kind in ("PNG", "JPEG", "BMP", "TIFF"):
            found[f"{kind} {width}x{height}"] = (saved(Image.new("RGB", (width, height)), kind), "answer")
    found["jpeg 65500x1"] = (saved(Image.new("RGB", (65500, 1)), "JPEG"), "answer")
    found["png 2000000x1"] = (saved(Image.new("L", (2_000_000, 1)), "PNG"), "answer")
    found["no bytes"] = (b"", "refusal")
    found["one byte"] = (b"\x89", "refusal")
    found["zeros"] = (bytes(5000), "refusal")
    found["text"] = (b"not an image\n" * 50, "refusal")
    found["html"] = (b"<!DOCTYPE html><html><body>404</body></html>", "refusal")
    found["pickle"] = (b"\x80\x04cos\nsystem\n(S'false'\ntR.", "refusal")
    return found


def _lies() -> Found:
    """Return headers that state more pixels than the file contains or than fit into memory."""
    big = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)
    jpeg = saved(picture(), "JPEG")
    frame = jpeg.index(b"\xff\xc0") + 5
    bmp, webp = bytearray(saved(picture(), "BMP")), bytearray(saved(picture(), "WEBP", lossless=True))
    bmp[18:26] = struct.pack("<ii", 2**31 - 1, 2**31 - 1)
    webp[21:25] = b"\xff\xff\xff\x0f"
    jp2 = saved(picture(), "JPEG2000")
    ihdr = jp2.index(b"ihdr") + 4
    return {
        "png of 2^62 pixels": (_png(big, b"\0" * 99), "refusal"),
        "png of 170 megapixels that lacks them": (
            _png(struct.pack(">IIBBBBB", 13_000, 13_000, 8, 2, 0, 0, 0), bytes(99)),
            "either",
        ),
        "png of 170 megapixels": (
            lambda: _png(struct.pack(">IIBBBBB", 13_000, 13_000, 8, 0, 0, 0, 0), bytes(13_001 * 13_000)),
            "either",
        ),
        "jpeg of 65500 x 65500": (jpeg[:frame] + struct.pack(">HH", 65500, 65500) + jpeg[frame + 4 :], "refusal"),
        "jpeg of 12000 x 12000 that lacks them": (
            jpeg[:frame] + struct.pack(">HH", 12000, 12000) + jpeg[frame + 4 :],
            "either",
        ),
        "jpeg of height 0": (jpeg[:frame] + struct.pack(">HH", 0, 24) + jpeg[frame + 4 :], "either"),
        "jpeg 2000 of 2^64 pixels": (jp2[:ihdr] + b"\xff" * 8 + jp2[ihdr + 8 :], "refusal"),
        "bmp of 2^62 pixels": (bytes(bmp), "refusal"),
        "webp of 16384 x 16384": (bytes(webp), "either"),
        "ppm of 10^12 pixels": (b"P6 1000000 1000000 255\n" + bytes(300), "refusal"),
        "ppm of 10^40 pixels": (b"P6 " + b"9" * 20 + b" " + b"9" * 20 + b" 255\n" + bytes(300), "refusal"),
        "pgm of 170 megapixels that lacks them": (b"P5 13000 13000 255\n" + bytes(300), "refusal"),
    }


def _exif(entries: bytes, count: int) -> bytes:
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", count) + entries + bytes(4)


def _metadata() -> Found:
    """Return images with EXIF and ICC blocks that are wrong, and with every orientation."""
    found: Found = {}
    blocks = {
        f"orientation {value}": _exif(struct.pack("<HHIHH", 0x112, 3, 1, value, 0), 1)
        for value in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 65535)
    }
    blocks |= {
        "orientation as text": _exif(struct.pack("<HHI4s", 0x112, 2, 4, b"six\0"), 1),
        "orientation as a fraction of zero": _exif(struct.pack("<HHII", 0x112, 5, 1, 26), 1) + bytes(8),
        "orientation of many values": _exif(struct.pack("<HHII", 0x112, 3, 2**31, 8), 1),
        "more entries than bytes": _exif(b"", 65535),
        "directory that contains itself": _exif(struct.pack("<HHII", 0x8769, 4, 1, 8), 1),
        "cut": _exif(struct.pack("<HHIHH", 0x112, 3, 1, 6, 0), 1)[:15],
        "no header": b"Exif\0\0",
        "noise": b"Exif\0\0" + bytes(range(256)) * 20,
    }
    for name, block in blocks.items():
        for kind in ("JPEG", "PNG", "WEBP"):
            found[f"exif {name} {kind}"] = (saved(picture(), kind, exif=block), "answer")
    for name, profile in (("empty", b""), ("short", b"abc"), ("noise", bytes(range(256)) * 9), ("long", bytes(2**20))):
        for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
            found[f"icc {name} {kind}"] = (saved(picture(), kind, icc_profile=profile), "answer")
    return found


def _portable() -> Found:
    pixels = bytes(range(72))
    return {
        "pbm text": (b"P1\n4 3\n" + b"0 1 " * 6, "answer"),
        "pgm text": (b"P2\n4 3\n255\n" + b"7 " * 12, "answer"),
        "pbm": (b"P4\n8 3\n" + pixels[:3], "answer"),
        "pgm 16 bit": (b"P5\n4 3\n65535\n" + pixels[:24], "answer"),
        "pgm 12 bit": (b"P5\n4 3\n4095\n" + bytes(24), "answer"),
        "pgm maximum 1": (b"P5\n4 3\n1\n" + bytes(12), "answer"),
        "pgm maximum 0": (b"P5\n4 3\n0\n" + bytes(12), "refusal"),
        "pgm maximum negative": (b"P5\n4 3\n-255\n" + bytes(12), "refusal"),
        "pgm value above the maximum": (b"P2\n4 3\n10\n" + b"99 " * 12, "either"),
        "ppm comments": (b"P6\n# a\n#b\n4 # c\n3\n255\n" + pixels[:36], "either"),
        "ppm long comment": (b"P6\n#" + b"x" * 10**6 + b"\n4 3\n255\n" + pixels[:36], "either"),
        "ppm size missing": (b"P6\n4\n", "refusal"),
        "ppm size 0": (b"P6\n0 0\n255\n", "refusal"),
        "ppm size negative": (b"P6\n-4 -3\n255\n" + pixels, "refusal"),
        "ppm size as text": (b"P6\nfour three\n255\n", "refusal"),
        "pam": (b"P7\nWIDTH 2\nHEIGHT 2\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n" + pixels[:12], "either"),
        "pfm": (b"Pf\n2 2\n-1.0\n" + np.full(4, 0.5, "<f4").tobytes(), "either"),
        "pfm scale nan": (b"Pf\n2 2\nnan\n" + bytes(16), "refusal"),
        "pfm scale 0": (b"Pf\n2 2\n0\n" + bytes(16), "refusal"),
    }


def _bitmaps() -> Found:
    bmp = saved(picture(), "BMP")
    found: Found = {f"bmp {m}": (saved(picture().convert(m), "BMP"), "answer") for m in ("1", "L", "P", "RGB", "RGBA")}
    fields = {"offset": 10, "header size": 14, "width": 18, "height": 22, "compression": 30, "colors": 46}
    for name, at in fields.items():
        for value in (-1, 0, 1, 2**31 - 1, -(2**31)):
            found[f"bmp {name} {value}"] = (bmp[:at] + struct.pack("<i", value) + bmp[at + 4 :], "either")
    for bits in (0, 1, 2, 4, 8, 16, 32, 65535):
        found[f"bmp {bits} bits"] = (bmp[:28] + struct.pack("<H", bits) + bmp[30:], "either")
    return found


def _jpegs() -> Found:
    plain = saved(picture(), "JPEG", comment=b"x" * 60_000)
    markers = [at for at in range(len(plain) - 1) if plain[at] == 0xFF and plain[at + 1] not in (0, 0xFF)]
    found: Found = {
        "jpeg progressive": (saved(picture(), "JPEG", progressive=True), "answer"),
        "jpeg restart markers": (saved(picture(), "JPEG", restart_marker_blocks=1), "answer"),
        "jpeg fill bytes": (plain[:2] + b"\xff" * 5000 + plain[2:], "answer"),
    }
    for at in markers:
        name = f"{plain[at + 1]:02x}"
        found[f"jpeg cut at marker {name}"] = (plain[:at], "either")
        found[f"jpeg segment {name} of length 0"] = (plain[: at + 2] + b"\0\0" + plain[at + 4 :], "either")
        found[f"jpeg segment {name} of length 65535"] = (plain[: at + 2] + b"\xff\xff" + plain[at + 4 :], "either")
    return found


def _npy(array: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def _npy_header(text: str) -> bytes:
    header = text.encode().ljust(118 - 1) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


def _arrays() -> dict[str, tuple[Content, int, Ending]]:
    """Return images of five channels: NumPy arrays and multi-band TIFF files."""
    import tifffile

    bands = np.arange(6 * 5 * 5, dtype=np.uint8).reshape(6, 5, 5)
    tiff = io.BytesIO()
    tifffile.imwrite(tiff, bands, photometric="minisblack", planarconfig="contig")
    content = tiff.getvalue()
    found: dict[str, tuple[Content, int, Ending]] = {
        "npy": (_npy(bands), 5, "answer"),
        "npy fortran order": (_npy(np.asfortranarray(bands)), 5, "answer"),
        "npy 16 bit big-endian": (_npy(bands.astype(">u2")), 5, "answer"),
        "npy float": (_npy(bands / 255.0), 5, "answer"),
        "npy float with nan": (_npy(np.where(bands == 3, np.nan, 0.5)), 5, "refusal"),
        "npy int64": (_npy(bands.astype(np.int64)), 5, "refusal"),
        "npy bool": (_npy(bands > 9), 5, "refusal"),
        "npy complex": (_npy(bands.astype(complex)), 5, "refusal"),
        "npy text": (_npy(bands.astype(str)), 5, "refusal"),
        "npy objects": (_npy(bands.astype(object), allow_pickle=True), 5, "refusal"),
        "npy records": (_npy(np.zeros((4, 4, 5), [("a", "u1")])), 5, "refusal"),
        "npy other channels": (_npy(bands[..., :4]), 5, "refusal"),
        "npy two dimensions": (_npy(bands[0]), 5, "refusal"),
        "npy no pixels": (_npy(bands[:0]), 5, "refusal"),
        "npy scalar": (_npy(np.uint8(3)), 5, "refusal"),
        "npy cut": (_npy(bands)[:-40], 5, "refusal"),
        "npy of 10^15 bytes": (
            _npy_header("{'descr': '|u1', 'fortran_order': False, 'shape': (99999999, 9999999, 5)}"),
            5,
            "refusal",
        ),
        "npy of negative size": (
            _npy_header("{'descr': '|u1', 'fortran_order': False, 'shape': (-4, -4, 5)}"),
            5,
            "refusal",
        ),
        "npy header with a call": (_npy_header("__import__('os').system('false')"), 5, "refusal"),
        "npy header without keys": (_npy_header("{}"), 5, "refusal"),
        "npy header deeply nested": (_npy_header("(" * 100), 5, "refusal"),
        "npy version 9": (b"\x93NUMPY\x09\x00" + _npy(bands)[8:], 5, "refusal"),
        "tiff": (content, 5, "answer"),
        "tiff other channels": (content, 7, "refusal"),
        "tiff looped": (_tiff_that_loops(content), 5, "either"),
        "rgba png": (saved(picture().convert("RGBA"), "PNG"), 4, "answer"),
        "rgb png as four channels": (saved(picture(), "PNG"), 4, "refusal"),
        "cmyk jpeg": (saved(picture().convert("CMYK"), "JPEG"), 4, "answer"),
        "text": (b"not an image", 5, "refusal"),
        "no bytes": (b"", 5, "refusal"),
    }
    for share in (8, 20, 60, 90):
        found[f"tiff cut to {share} %"] = (content[: len(content) * share // 100], 5, "either")
    for tag, name in (
        (256, "width"),
        (257, "height"),
        (277, "samples"),
        (258, "bits"),
        (273, "offsets"),
        (279, "sizes"),
    ):
        for value in (0, 2**16, 2**31 - 1):
            found[f"tiff {name} {value}"] = (_with_tag(content, tag, value), 5, "either")
    return found


def _entries(tiff: bytes) -> tuple[int, int]:
    """Return the place and the number of the entries of the first directory of a little-endian TIFF file."""
    start = struct.unpack("<I", tiff[4:8])[0]
    return start + 2, struct.unpack("<H", tiff[start : start + 2])[0]


def _with_tag(tiff: bytes, tag: int, value: int) -> bytes:
    """Return a TIFF file with one number in place of the value of a tag."""
    start, count = _entries(tiff)
    for at in range(start, start + 12 * count, 12):
        if struct.unpack("<H", tiff[at : at + 2])[0] == tag:
            return tiff[: at + 2] + struct.pack("<HII", 4, 1, value) + tiff[at + 12 :]
    return tiff


def _tiff_that_loops(tiff: bytes) -> bytes:
    start, count = _entries(tiff)
    after = start + 12 * count
    return tiff[:after] + struct.pack("<I", start - 2) + tiff[after + 4 :]


def _swapped_tiff() -> bytes:
    image = Image.frombytes("I;16B", (24, 18), GRAY.astype(">u2").tobytes())
    return saved(image, "TIFF")
