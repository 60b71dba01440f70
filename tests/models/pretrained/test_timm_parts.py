"""Networks of timm as stages and a head: they compute what the networks compute, for every module of timm."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm_cases import SMALLEST
from torch import Tensor, nn

import opsin.models as models
from opsin.errors import UserError
from opsin.interpretability.attribution import gradcam
from opsin.models import Network
from opsin.models.export_weights import library_state

NEW_LOGITS = {"crossvit_tiny_240", "efficientvim_m1", "volo_d1_224"}
"""Networks whose logits are a mean over several features, not those of one layer on all of them."""
FAST = {
    "test_resnet": ["stem", "layer1", "layer2", "layer3", "layer4"],
    "test_mambaout": ["stem", "stage1", "stage2", "stage3", "stage4", "pool"],
    "test_vit_relpos": ["stem", *(f"block{number}" for number in range(1, 10)), "pool"],
    "test_nfnet": ["stem", "stage1", "stage2", "stage3", "stage4", "head_conv"],
    "dpn48b": ["body"],
    "levit_128s": ["body"],
}

Build = Callable[[str], tuple[Network, Any, Tensor]]


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Build:
    """Return a function that builds a network for small images that it takes.

    The function returns the network, the network of timm from which it is made, and an image.
    """
    made: list[nn.Module] = []
    create = timm.create_model

    def recorded(*args: Any, **options: Any) -> nn.Module:
        made.append(create(*args, **options))
        return made[-1]

    monkeypatch.setattr(timm, "create_model", recorded)

    def function(name: str) -> tuple[Network, Any, Tensor]:
        torch.manual_seed(0)
        facts = timm.get_pretrained_cfg(name)
        sides = sorted({64, *(size[1] for size in (facts.min_input_size, facts.input_size) if size)})
        for side in sides:
            try:
                network = models.timm(num_logits=3, image_size=(side, side), name=name)
            except UserError:  # too small
                if side == sides[-1]:
                    raise
            else:
                return network.eval(), made[-1].eval(), torch.randn(1, 3, side, side)
        raise AssertionError

    return function


def check(network: Network, original: Any, images: Tensor) -> None:
    """Compare features, logits and keys of a network with those of the network of timm from which it is made."""
    *_, before_logits, _ = network.steps()
    with torch.no_grad():
        features = network.forward_features(images, before_logits)
        pooled = original.forward_head(original.forward_features(images), pre_logits=True)
        assert features.ndim == 2
        assert torch.equal(features, pooled)
        own = any(key.startswith("head.fc") for key in network.original_keys)
        assert own == (original.pretrained_cfg["architecture"] not in NEW_LOGITS)
        if own:
            assert torch.equal(network(images), original(images))
    exported, theirs = library_state(network), original.state_dict()
    assert len(exported) == len(network.state_dict()), "two tensors have the same key"
    assert all(exported[key] is not None and key in theirs for key in exported if not key.startswith("head.fc"))
    assert network.embed(images).shape[0] == 1
    network.freeze("head")
    assert not any(parameter.requires_grad for parameter in network.stages.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", FAST)
def test_networks_of_each_kind_compute_the_same_as_timm(name: str, build: Build) -> None:
    network, original, images = build(name)
    assert list(network.stages) == FAST[name]
    check(network, original, images)
    network.train()
    network(torch.cat([images, images])).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.head.parameters())
    assert network.maps_channels_last == (name == "test_mambaout")
    if name == "dpn48b":
        assert gradcam(network, images, torch.zeros(1, dtype=torch.int64)).shape == images.shape[:1] + images.shape[2:]
        assert network.embedding_step == "head.pool"
        copy.deepcopy(network)(images)


@pytest.mark.slow
@pytest.mark.parametrize("module", sorted(SMALLEST))
def test_the_smallest_network_of_every_module_computes_the_same_as_timm(module: str, build: Build) -> None:
    check(*build(SMALLEST[module]))


@pytest.mark.slow
def test_every_module_of_timm_is_tested() -> None:
    assert set(SMALLEST) == set(timm.list_modules())
    assert all(name in timm.list_models(module=module) for module, name in SMALLEST.items())


def test_images_that_a_network_does_not_take_are_refused_with_the_size_that_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from timm.models.resnet import ResNet

    def fail(self: nn.Module, x: Tensor) -> Tensor:
        raise AssertionError("blocks of 8 pixels do not fit")

    monkeypatch.setattr(ResNet, "forward_features", fail)
    reason = r"test_resnet of timm does not run on images of 64x64 pixels \(blocks .*set datamodule.image_size=160, the"
    with pytest.raises(UserError, match=reason):
        models.timm(num_logits=1, image_size=(64, 64), name="test_resnet")


def test_a_network_without_a_vector_of_features_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    from timm.models.resnet import ResNet

    monkeypatch.setattr(ResNet, "forward_head", lambda self, x, pre_logits=False: x)
    with pytest.raises(UserError, match="test_resnet of timm cannot be used, because its features are not"):
        models.timm(num_logits=1, image_size=(64, 64), name="test_resnet")
