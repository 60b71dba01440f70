import numpy as np
import pytest
import torch
from PIL import Image

from opsin.data.preprocessing import Preprocess, fit_image

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


def pixels(batch=4, channels=3, height=5, width=7):
    nhwc = np.random.default_rng(1).integers(0, 256, (batch, height, width, channels), np.uint8)
    return torch.from_numpy(nhwc).permute(0, 3, 1, 2)


@pytest.mark.parametrize("channels", [1, 3])
def test_preprocess_equals_the_formula(channels):
    mean, std = (0.485, 0.456, 0.406)[:channels], (0.229, 0.224, 0.225)[:channels]
    images = pixels(channels=channels)
    expected = (images.double() / 255 - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    preprocess = Preprocess(mean, std, channels)
    in_two_steps = preprocess.normalize(preprocess.to_unit_range(images))
    for made in (preprocess(images), preprocess(images.contiguous()), in_two_steps):
        assert made.dtype == torch.float32
        assert made.is_contiguous(memory_format=torch.channels_last)
        assert torch.allclose(made.double(), expected, atol=1e-6)


def test_preprocess_does_not_depend_on_batch_or_memory_format():
    images, preprocess = pixels(9), Preprocess((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), 3)
    whole = preprocess(images)
    assert torch.equal(whole, preprocess(images.contiguous()))
    assert torch.equal(whole, torch.cat([preprocess(image[None]) for image in images]))


def test_preprocess_does_not_change_its_input():
    images = pixels()
    before = images.clone()
    Preprocess((0.5,), (0.5,), 3)(images)
    assert torch.equal(images, before)


def test_gray_is_repeated_and_normalized_per_channel():
    images = pixels(channels=1)
    made = Preprocess((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 3)(images)
    expected = Preprocess((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 3)(images.repeat(1, 3, 1, 1))
    assert made.shape == (4, 3, 5, 7)
    assert torch.equal(made, expected)
    one = Preprocess((0.3,), (0.2,), 3)(images)
    assert torch.equal(one[:, 0], one[:, 2])


def test_unit_scales_to_zero_to_one():
    images = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2)
    assert Preprocess((0.1,), (0.2,), 1).to_unit_range(images).flatten().tolist() == [0.0, 1.0]
