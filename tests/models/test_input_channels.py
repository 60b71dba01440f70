"""Pretrained first layers for images of 2, 4 and more channels equal those of timm."""

import pytest
import timm
import torch
import torchvision

import opsin.models as models
from opsin.models import load_weights
from opsin.models.export_weights import library_state

SIZE = (64, 64)


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_kernels_are_repeated_and_rescaled_as_in_timm(channels: int, tmp_path) -> None:
    original = timm.create_model("test_resnet", num_classes=3)
    torch.save(original.state_dict(), tmp_path / "it.pt")
    given = {"file": str(tmp_path / "it.pt"), "num_classes": 3}
    expected = timm.create_model(
        "test_resnet", pretrained=True, num_classes=3, in_chans=channels, pretrained_cfg_overlay=given
    )
    network = models.timm(name="test_resnet", num_logits=3, image_size=SIZE, in_channels=channels)
    assert load_weights(network, str(tmp_path / "it.pt")).head
    assert library_state(network).keys() == expected.state_dict().keys()
    for key, tensor in library_state(network).items():
        assert torch.equal(tensor, expected.state_dict()[key]), key


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "convnext_tiny"])
def test_networks_of_torchvision_take_any_number_of_channels(name: str, tmp_path) -> None:
    original = torchvision.models.get_model(name, num_classes=3)
    torch.save(original.state_dict(), tmp_path / "it.pt")
    network = getattr(models, name)(num_logits=3, image_size=SIZE, in_channels=6).eval()
    load_weights(network, str(tmp_path / "it.pt"))
    images = torch.randn(2, 3, *SIZE)
    with torch.no_grad():  # each color occurs twice, at half the weight
        torch.testing.assert_close(network(images.repeat(1, 2, 1, 1)), original.eval()(images), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_every_torchvision_network_takes_four_channels() -> None:
    for name in ("vgg16", "efficientnet_b0", "inception_v3"):
        more = {"auxiliary": False} if name == "inception_v3" else {}
        side = 96
        network = getattr(models, name)(num_logits=2, image_size=(side, side), in_channels=4, **more)
        assert network(torch.randn(2, 4, side, side)).shape == (2, 2)
