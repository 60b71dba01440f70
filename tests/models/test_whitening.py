"""The whitened stem: statistics of its outputs, and the networks that it refuses."""

import pytest
import torch

from opsin.errors import UserError
from opsin.models import cnn_whitened, mlp
from opsin.models.fine_tuning import FineTuning
from opsin.models.whitening import whiten_stem


def smooth_images() -> torch.Tensor:
    """Return images with correlated pixels and channels, like photographs."""
    coarse = torch.randn(64, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    mixed = torch.einsum("ij,njhw->nihw", torch.tensor([[1.0, 0.5, 0.2], [0, 1.0, 0.5], [0, 0, 1.0]]), coarse)
    return torch.nn.functional.interpolate(mixed, size=(32, 32), mode="bilinear")


def test_outputs_of_the_stem_are_uncorrelated_with_variance_one() -> None:
    network, images = cnn_whitened(num_logits=2, in_channels=3, image_size=(32, 32), widths=(8, 8, 8)), smooth_images()
    whiten_stem(network, images)
    conv = network.stages["stem"].conv
    assert torch.equal(conv.weight[:12], -conv.weight[12:])  # both signs of all directions of 2x2 patches
    outputs = conv(images).detach().transpose(0, 1).flatten(1)[:12]
    moments = outputs @ outputs.T / outputs.shape[1]
    assert moments[0, 0] == pytest.approx(1, abs=1e-3)
    assert (moments - torch.diag(moments.diag())).abs().max() < 1e-3
    assert (moments.diag().diff() <= 1e-4).all()  # the noise term lowers the directions without signal
    fresh = cnn_whitened(num_logits=2, in_channels=3, image_size=(32, 32), widths=(8, 8, 8))
    whiten_stem(fresh, images)
    assert torch.equal(fresh.stages["stem"].conv.weight, conv.weight)  # a function of the images alone


def test_a_network_without_a_first_convolution_and_pretrained_weights_are_refused() -> None:
    dense = mlp(num_logits=2, in_channels=3, image_size=(32, 32))
    with pytest.raises(UserError, match="whitened_stem=true: the first stage of mlp has no convolution"):
        whiten_stem(dense, smooth_images())
    with pytest.raises(UserError, match=r"would replace filters of model\.weights=imagenet"):
        FineTuning(weights="imagenet", whitened_stem=True)
