import numpy as np
import pytest
import torch

from opsin.data.preprocessing import Preprocess


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
