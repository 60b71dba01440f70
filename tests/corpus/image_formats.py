"""Images in every format that Pillow writes, intact and damaged."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from corpus.case import Case
from opsin.data.decode import FORMATS, decode_image

LOSSY = {"JPEG", "JPEG2000", "WEBP", "AVIF", "MPO"}
COARSE = {"GIF": "P", "MSP": "1", "XBM": "1", "PALM": "P", "WAL": "P"}
"""Formats that cannot hold the picture in RGB, and the mode in which they are written."""

HANDLED_ELSEWHERE = {"BUFR", "GRIB", "HDF5", "WMF"}
"""Formats that Pillow writes only with a handler of another package."""


def picture() -> Image.Image:
    """Return a smooth picture of 24 x 18 pixels, which lossy formats keep."""
    y, x = np.mgrid[0:18, 0:24]
    return Image.fromarray(np.stack([10 * x, 13 * y, 128 + 0 * x], axis=-1).astype(np.uint8))


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    """Return the bytes of an image in a format."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def written_formats() -> dict[str, bytes]:
    """Return the picture in every format that this build of Pillow writes."""
    Image.init()
    found = {}
    for kind in sorted(set(Image.SAVE) - HANDLED_ELSEWHERE):
        for mode in (COARSE.get(kind, "RGB"), "RGBA", "L", "P", "1", "F"):
            try:
                found[kind] = saved(picture().convert(mode), kind)
                break
            except (OSError, ValueError, KeyError, AttributeError):  # the format supports other modes
                continue
    return found


def _zeroed(content: bytes, start: int, stop: int) -> bytes:
    return content[:start] + bytes(max(0, min(stop, len(content)) - start)) + content[stop:]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "half": lambda c: c[: len(c) // 2],
    "start only": lambda c: c[:12],
    "last bytes missing": lambda c: c[:-9],
    "middle zeroed": lambda c: _zeroed(c, len(c) // 2, len(c) // 2 + 40),
    "start zeroed": lambda c: _zeroed(c, 0, 16),
    "header zeroed": lambda c: _zeroed(c, 16, 64),
    "header ones": lambda c: c[:16] + b"\xff" * 40 + c[56:],
    "bytes swapped": lambda c: bytes(b for pair in zip(c[1::2], c[::2], strict=False) for b in pair),
    "doubled": lambda c: c + c,
    "garbage appended": lambda c: c + bytes(range(256)) * 8,
}


def format_cases() -> Iterator[Case]:
    """Yield every format intact, under another name, and with every damage."""
    formats = written_formats()
    assert set(FORMATS) <= {*formats, "DIB"}, "this build of Pillow writes fewer formats than expected"
    for kind, content in formats.items():
        known = kind in FORMATS or kind == "MPO"
        yield Case(f"image/{kind}/intact", _decodes(kind, content), "answer" if known else "refusal")
        yield Case(
            f"image/{kind}/named .txt.jpg", _decodes(kind, content, "odd.txt.jpg"), "answer" if known else "refusal"
        )
        for damage, change in DAMAGES.items():
            keeps = known and damage in ("doubled", "garbage appended") and kind not in ("TIFF", "AVIF", "JPEG2000")
            yield Case(
                f"image/{kind}/{damage}", _decodes(kind, change(content), exact=False), "answer" if keeps else "either"
            )


def _decodes(kind: str, content: bytes, name: str = "image", exact: bool = True) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        (folder / name).write_bytes(content)
        pixels = decode_image(folder / name, 3)
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3
        gray = decode_image(content, 1)
        assert gray.shape == (*pixels.shape[:2], 1)
        if exact:
            assert pixels.shape == (18, 24, 3)
            error = np.abs(pixels.astype(int) - np.asarray(picture()).astype(int)).mean()
            assert error == 0 or (kind in LOSSY and error < 6) or (kind in COARSE and error < 90), f"error of {error}"

    return act
