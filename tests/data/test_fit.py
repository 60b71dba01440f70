"""Images are resized as Pillow does it; large JPEGs are decoded at a reduced scale, with nearly the same pixels."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image, ImageFile

from opsin.data import decode
from opsin.data.decode import decode_image
from opsin.data.fit import Fit, fit_image, reduce_jpeg
from opsin.data.image_memory import decoding_bytes
from opsin.data.types import BadImage
from opsin.interpretability.convolution.sample_images import sample

SHAPES = [(37, 53), (53, 37), (40, 40), (10, 90), (8, 5), (1, 7)]


def picture(height, width, channels=3):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("resize", ["squash", "crop", "letterbox"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_image_is_resized_to_the_image_size(shape, channels, resize):
    fitted = fit_image(picture(*shape, channels), (24, 31), resize)
    assert fitted.shape == (24, 31, channels)
    assert fitted.dtype == np.uint8


def test_an_image_of_the_image_size_is_unchanged():
    image = picture(24, 31)
    for resize in ("squash", "crop", "letterbox"):
        assert fit_image(image, (24, 31), resize, "bicubic") is image


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_squash_equals_pillows_resize(interpolation):
    image = picture(37, 53)
    expected = Image.fromarray(image).resize((31, 24), Image.Resampling[interpolation.upper()])
    assert np.array_equal(fit_image(image, (24, 31), "squash", interpolation), np.asarray(expected))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", [7, 24, 64])
def test_crop_equals_torchvisions_resize_and_center_crop(shape, side):
    from torchvision.transforms import v2

    image = picture(*shape)
    theirs = v2.Compose([v2.Resize(side), v2.CenterCrop(side)])(Image.fromarray(image))
    assert np.array_equal(fit_image(image, (side, side), "crop"), np.asarray(theirs))


@pytest.mark.parametrize("size", [(24, 31), (31, 24)])
@pytest.mark.parametrize("shape", SHAPES)
def test_letterbox_centers_the_whole_image_on_black(shape, size):
    boxed = fit_image(np.full((*shape, 3), 200, np.uint8), size, "letterbox")
    rows, columns = (np.flatnonzero(boxed.any(axis=(axis, 2))) for axis in (1, 0))
    assert (boxed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] == 200).all()
    assert len(rows) == size[0] or len(columns) == size[1]
    scale = min(size[0] / shape[0], size[1] / shape[1])
    assert abs(len(rows) - max(1, shape[0] * scale)) <= 1
    assert abs(len(columns) - max(1, shape[1] * scale)) <= 1
    assert abs(rows[0] - (size[0] - 1 - rows[-1])) <= 1
    assert abs(columns[0] - (size[1] - 1 - columns[-1])) <= 1


def jpeg(image: Image.Image, orientation: int = 1, **options: object) -> bytes:
    exif, stream = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    image.save(stream, "JPEG", **{"quality": 90, "exif": exif, **options})
    return stream.getvalue()


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    """A photograph whose sides no scale divides."""
    return Image.fromarray(sample("coffee")).resize((1203, 805), Image.Resampling.BICUBIC)


def whole(data: bytes, channels: int, fit: Fit) -> np.ndarray:
    """The pixels of an image that is decoded at full scale."""
    return fit_image(decode_image(data, channels), *fit)


def difference(data: bytes, fit: Fit, channels: int = 3) -> float:
    reduced = decode_image(data, channels, fit)
    assert reduced.shape == (*fit.size, channels)
    off = np.abs(reduced.astype(int) - whole(data, channels, fit))
    assert off.any()  # it was reduced
    return float(off.mean())


def test_the_scale_is_the_smallest_with_twice_the_size() -> None:
    random = np.random.default_rng(0)
    scales = []
    for resize, orientation in itertools.product(("squash", "crop", "letterbox"), range(1, 9)):
        for _ in range(4):
            (width, height), size = random.integers(8, 500, 2).tolist(), tuple(random.integers(5, 40, 2).tolist())
            with Image.open(io.BytesIO(jpeg(Image.new("L", (width, height)), orientation))) as image:
                fit = Fit(size, resize)
                reduction = reduce_jpeg(image, fit)
                upright = (width, height) if orientation > 4 else (height, width)
                inner = fit.resized(upright)
                needed = inner[::-1] if orientation <= 4 else inner
                scale = next(s for s in (1, 2, 4, 8) if image.size == (-(-width // s), -(-height // s)))
            assert (reduction is None) == (scale == 1)
            assert scale == 1 or (image.width >= 2 * needed[0] and image.height >= 2 * needed[1])
            assert scale == 8 or 2 * scale > min(width // (2 * needed[0]), height // (2 * needed[1]))
            assert reduction is None or reduction.shape == upright
            scales.append(scale)
    assert set(scales) == {1, 2, 4, 8}


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}], ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_reduced_photograph_has_nearly_the_same_pixels(
    photograph: Image.Image, mode: str, options: dict[str, object]
) -> None:
    data = jpeg(photograph.convert(mode), **options)
    assert difference(data, Fit((64, 64))) < 0.5
    assert difference(data, Fit((90, 90), "crop", "bicubic")) < 0.5
    assert difference(data, Fit((64, 64)), channels=1) < 0.5


def test_a_camera_file_with_two_images_is_reduced(photograph: Image.Image) -> None:
    stream = io.BytesIO()
    photograph.save(stream, "MPO", save_all=True, append_images=[photograph.rotate(180)])
    assert difference(stream.getvalue(), Fit((64, 64))) < 0.5


@pytest.mark.parametrize("resize", ["squash", "crop", "letterbox"])
def test_a_reduced_photograph_is_not_moved_by_its_orientation(photograph: Image.Image, resize: str) -> None:
    waves = sum(np.cos(np.arange(side) / 50)[shape] for side, shape in ((1201, np.s_[None]), (809, np.s_[:, None])))
    smooth = Image.fromarray((127 + 60 * waves).astype(np.uint8))  # no scale divides the sides
    fit = Fit((50, 50), resize)
    for orientation in range(1, 9):
        assert difference(jpeg(photograph, orientation), fit) < 0.6
        data = jpeg(smooth, orientation, quality=100)
        assert np.abs(decode_image(data, 1, fit).astype(int) - whole(data, 1, fit)).max() <= 3  # 8 if it is stretched


def test_other_images_are_resized_from_all_their_pixels(photograph: Image.Image) -> None:
    data, stream = jpeg(photograph), io.BytesIO()
    photograph.save(stream, "PNG", compress_level=1)
    for content, channels, fit in (
        (jpeg(Image.fromarray(picture(90, 130)), 6), 3, Fit((33, 32))),  # under four times the size
        (data, 3, Fit((202, 301))),
        (data, 3, Fit((64, 64), "squash", "nearest")),
        (jpeg(photograph.convert("CMYK")), 4, Fit((64, 64))),
        (stream.getvalue(), 3, Fit((64, 64), "letterbox")),
        (stream.getvalue(), 1, Fit((805, 1203))),
    ):
        assert np.array_equal(decode_image(content, channels, fit), whole(content, channels, fit))


def test_a_damaged_large_photograph_is_refused(photograph: Image.Image) -> None:
    data, fit = jpeg(photograph), Fit((64, 64))
    with pytest.raises(BadImage, match="truncated"):
        decode_image(data[: len(data) // 2], 3, fit)
    with pytest.raises(BadImage, match=r"1 x 65000 pixels are too long and narrow for resize=crop"):
        decode_image(jpeg(Image.new("L", (1, 65000))), 3, Fit((64, 64), "crop"))


def with_several_scans(data: bytes) -> bytes:
    """Return a JPEG that begins with a scan of one of its components."""
    return data.replace(b"\xff\xda\x00\x0c\x03", b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00", 1)


def test_the_memory_of_a_reduced_photograph_is_that_of_its_reduced_pixels(
    photograph: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit, data = Fit((64, 64)), jpeg(photograph)
    pixels = 1203 * 805
    with Image.open(io.BytesIO(data)) as image:
        assert decoding_bytes(image, 3, image.size) == 7 * pixels
        reduce_jpeg(image, fit)
        assert decoding_bytes(image, 3, (1203, 805)) == 7 * 301 * 202
    monkeypatch.setattr(decode, "LIMIT", 2 * pixels)
    decode_image(data, 3, fit)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("the image was decoded"))
    # The decoder keeps the coefficients of the whole image, at any scale.
    for content in (jpeg(photograph, progressive=True), with_several_scans(data)):
        with pytest.raises(BadImage, match=r"^1,203 x 805 values need about .*: use a smaller copy of it"):
            decode_image(content, 3, fit)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels // 4)
    with pytest.raises(BadImage, match=r"^more than [\d,]+ pixels"):
        decode_image(data, 3, fit)
