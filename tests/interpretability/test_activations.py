"""Activations are the outputs of layers; dead channels are zero for all images."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import tiny
from torch import nn

from opsin.errors import UserError
from opsin.interpretability.activations import activations, dead_channels
from opsin.interpretability.feature_visualization import ascend
from opsin.models import Network
from opsin.models.network import sequential


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return tiny(num_logits=3, in_channels=3, image_size=(12, 12))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(40, 3, 12, 12, generator=torch.Generator().manual_seed(1))  # more than one block


def test_activations_match_those_computed_by_hand(network: Network, images: torch.Tensor) -> None:
    found = activations(network, images)
    assert list(found) == [f"{stage}{part}" for stage in ("low", "middle", "high") for part in (".conv", ".relu", "")]
    network.eval()
    with torch.no_grad():
        torch.testing.assert_close(found["low.conv"], network.stages["low"].conv(images))
        for stage in network.stages:
            torch.testing.assert_close(found[stage], network.forward_features(images, stage))
            torch.testing.assert_close(found[stage], found[f"{stage}.relu"])


def test_activations_before_an_inplace_relu_are_kept(images: torch.Tensor) -> None:
    conv = nn.Conv2d(3, 4, 3)
    network = Network("one", {"only": sequential(conv=conv, relu=nn.ReLU(inplace=True))}, nn.Identity())
    found = activations(network, images, ["only.conv", "only"])
    torch.testing.assert_close(found["only.conv"], conv(images).detach())
    torch.testing.assert_close(found["only"], F.relu(conv(images)).detach())
    assert (found["only.conv"] < 0).any()


def test_the_network_is_unchanged(network: Network, images: torch.Tensor) -> None:
    network.freeze(["high"])
    network.train()
    network.compile()
    modes = [module.training for module in network.modules()]
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    generator = torch.get_rng_state()
    with torch.inference_mode():
        found = activations(network, images, ["low"])
        dead_channels(network, images)
    assert found["low"].shape == (40, 4, 12, 12)
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generator)
    assert not any(module._forward_hooks for module in network.modules())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_dead_channels_are_counted_over_all_images(network: Network, images: torch.Tensor) -> None:
    with torch.no_grad():
        network.stages["middle"].norm.bias[[1, 4]] = -1e3
    found = dead_channels(network, images)
    assert list(found) == ["low.relu", "middle.relu", "high.relu"]
    assert found["middle.relu"].channels == (1, 4)
    assert found["middle.relu"].total == 6
    assert found["low.relu"].channels == ()
    with torch.no_grad():  # zero on all images but the very last, of another block
        network.stages["low"].conv.weight[0] = 0
        network.stages["low"].conv.weight[0, 0] = 1.0
        network.stages["low"].norm.bias[0] = -100.0
        images[-1, 0] = 100.0
    assert found["low.relu"].channels == dead_channels(network, images)["low.relu"].channels == ()
    assert dead_channels(network, images[:-1])["low.relu"].channels == (0,)


def test_unknown_stages_and_layers_without_maps_are_refused(network: Network, images: torch.Tensor) -> None:
    with pytest.raises(UserError, match=r"no stage or layer 'hihg': its stages are low, middle, high.*low\.conv"):
        activations(network, images, ["hihg"])
    flat = Network("flat", {"all": sequential(flatten=nn.Flatten(), fc=nn.Linear(432, 5))}, nn.Linear(5, 2))
    assert activations(flat, images) == {}
    with pytest.raises(UserError, match="the output of all is not a map; the stages with maps are none"):
        activations(flat, images, ["all"])


class ChannelsLast(nn.Module):
    """Return `(N, h, w, C)`, as the stages of Swin."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.repeat(1, 6, 1, 1).permute(0, 2, 3, 1)


class Tokens(nn.Module):
    """Return `(N, tokens, C)`, as the stages of ViT."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(2).transpose(1, 2)


@pytest.mark.parametrize("kind", [ChannelsLast, Tokens])
def test_tokens_and_channels_last_are_no_maps(kind: type[nn.Module], images: torch.Tensor) -> None:
    conv = nn.Conv2d(images.shape[1], 4, 3, padding=1)
    network = Network("mixed", {"map": conv, "other": kind()}, sequential(flatten=nn.Flatten(), fc=nn.LazyLinear(2)))
    network(images)
    assert list(activations(network, images)) == ["map"]
    with pytest.raises(UserError, match="the output of other is not a map; the stages with maps are map"):
        activations(network, images, ["other"])
    with pytest.raises(UserError, match=r"the output of other is not a map \(N, C, h, w\), so it has no filters"):
        ascend(network, "other", [0], size=(12, 12), upscalings=0, mean=(0.5,) * 3, std=(0.5,) * 3)


def test_a_rectifier_that_runs_several_times_is_recorded_in_each_stage(images: torch.Tensor) -> None:
    """Also with another number of channels, as in the blocks of ResNet50."""
    act = nn.ReLU()
    stages = {
        "a": nn.Sequential(nn.Conv2d(3, 4, 1), act, nn.Conv2d(4, 6, 1), act),
        "b": nn.Sequential(nn.Conv2d(6, 2, 1), act),
    }
    network = Network("shared", stages, nn.Flatten())
    with torch.no_grad():
        stages["a"][2].bias[5] = -1e3
    found = activations(network, images)
    for stage, layer in (("a", "a.1"), ("b", "b.1")):
        torch.testing.assert_close(found[layer], network.forward_features(images, stage).detach())
    dead = dead_channels(network, images)
    assert {name: layer.total for name, layer in dead.items()} == {"a.1": 6, "b.1": 2}
    assert 5 in dead["a.1"].channels


def test_a_wrapped_network_is_unwrapped(network: Network, images: torch.Tensor) -> None:
    wrapped: Any = nn.DataParallel(network)
    assert list(activations(wrapped, images[:2], ["low"])) == ["low"]
    assert dead_channels(wrapped, images[:2]) == dead_channels(network, images[:2])


def test_a_layer_of_several_stages_can_be_named_in_each(images: torch.Tensor) -> None:
    act, shared = nn.ReLU(), nn.Conv2d(3, 3, 1)
    stages = {name: sequential(conv=shared, act=act) for name in "ab"}
    network = Network("shared", stages, nn.Flatten())
    found = activations(network, images, ["b.act", "b.conv", "a.act"])
    assert list(found) == ["b.act", "b.conv", "a.act"]
    torch.testing.assert_close(found["b.act"], network.forward_features(images, "b").detach())
    torch.testing.assert_close(found["a.act"], network.forward_features(images, "a").detach())
