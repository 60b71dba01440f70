"""Images of kernels: signs as colors, with zero in the middle."""

import numpy as np
import pytest
import torch
from tiny import tiny
from torch import nn

from opsin.errors import UserError
from opsin.interpretability.kernels import first_kernels, kernel_pictures
from opsin.models import Network


def test_the_first_convolution_is_found_and_copied() -> None:
    network = tiny(num_logits=2, in_channels=3, image_size=(8, 8))
    name, kernels = first_kernels(network)
    assert name == "low.conv"
    np.testing.assert_array_equal(kernels, network.stages["low"].conv.weight.detach().numpy())
    kernels[:] = 0
    assert network.stages["low"].conv.weight.abs().sum() > 0


def test_a_network_without_convolutions_has_none() -> None:
    with pytest.raises(UserError, match="dense has no convolution"):
        first_kernels(Network("dense", {"hidden": nn.Linear(4, 4)}, nn.Linear(4, 2)))


def test_signs_have_colors() -> None:
    sobel = np.array([[1, 2, 1], [0, 0, 0], [-1, -2, -1]], np.float32)[None, None]
    (picture,) = kernel_pictures(sobel)
    red, blue = picture[0, 1].astype(int), picture[2, 1].astype(int)
    assert red[0] > red[2] + 50
    assert blue[2] > blue[0] + 50
    assert (picture[1] > 240).all()  # zero is white


def test_kernels_with_three_channels_are_shown_in_color() -> None:
    kernels = torch.zeros(2, 3, 5, 5)
    kernels[0, 0], kernels[0, 2], kernels[1, 1] = 1.0, -1.0, 0.1
    shared, own = kernel_pictures(kernels.numpy()), kernel_pictures(kernels.numpy(), own_scale=True)
    assert shared[0][2, 2].tolist() == [255, 128, 0]
    assert 128 < shared[1][2, 2, 1] < 160  # pale beside the other
    assert own[1][2, 2].tolist() == [128, 255, 128]
    assert len(kernel_pictures(np.ones((4, 7, 3, 3), np.float32))) == 4
    assert (kernel_pictures(np.zeros((1, 3, 3, 3), np.float32))[0] == 128).all()
