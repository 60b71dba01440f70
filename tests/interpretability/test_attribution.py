"""Attribution maps are correct where the answer is known, and leave the network unchanged."""

import copy

import pytest
import torch
from planted_patches import planted_images, trained, untrained
from tiny import tiny
from torch import Tensor, nn

from opsin.errors import UserError
from opsin.interpretability.activations import activations
from opsin.interpretability.attribution import (
    METHODS,
    attribute,
    cam,
    channel_maps,
    gradcam,
    integrated_gradients,
    occlusion,
)
from opsin.interpretability.faithfulness import faithfulness
from opsin.interpretability.sanity_check import randomization_check
from opsin.models.auxiliary_head import Auxiliary
from opsin.models.network import Network, sequential


@pytest.fixture(scope="module")
def three() -> Network:
    return trained(3)


@pytest.fixture(scope="module")
def one() -> Network:
    return trained(1)


@pytest.mark.parametrize("stage", ["low", "middle", "high"])
def test_gradcam_matches_captum(stage: str) -> None:
    from captum.attr import LayerAttribution, LayerGradCam

    network = tiny(num_logits=4, in_channels=3, image_size=(20, 28)).eval()
    images, targets = torch.randn(5, 3, 20, 28), torch.tensor([0, 3, 1, 2, 2])
    maps = LayerGradCam(network, network.stages[stage]).attribute(images, targets, relu_attributions=True)
    expected = LayerAttribution.interpolate(maps, (20, 28), "bilinear")[:, 0].detach()
    expected = expected / expected.amax((1, 2), keepdim=True).clamp(min=1e-30)
    torch.testing.assert_close(gradcam(network, images, targets, stage), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("num_logits", [1, 2, 5])
def test_cam_equals_gradcam_up_to_scale_on_a_head_that_averages(num_logits: int) -> None:
    network = untrained(num_logits)
    images, _, _ = planted_images(12)
    targets = torch.arange(12) % max(2, num_logits)
    maps = cam(network, images, targets)
    assert maps.amax() == 1
    torch.testing.assert_close(maps, gradcam(network, images, targets), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_a_cam_adds_up_to_the_logit(three: Network) -> None:
    """Zhou et al., equation 2: the mean of the map before it is cut and scaled, plus the bias, is the logit."""
    from opsin.interpretability.attribution import _cam

    images, targets, _ = planted_images(6)
    with torch.no_grad():
        sums = _cam(three, images, targets).mean((1, 2)) + three.head.fc.bias[targets]  # type: ignore[union-attr, index]
        torch.testing.assert_close(sums, three(images)[torch.arange(6), targets])


@pytest.mark.parametrize("kind", ["two layers", "maximum", "flatten"])
def test_cam_refuses_a_head_for_which_it_would_not_be_exact(kind: str) -> None:
    network = untrained(3)
    if kind == "two layers":
        fc = sequential(hidden=nn.Linear(12, 12), relu=nn.ReLU(), last=nn.Linear(12, 3))
        network.head = sequential(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=fc)
    elif kind == "maximum":
        network.head = sequential(pool=nn.AdaptiveMaxPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(12, 3))
    else:
        network.head = sequential(flatten=nn.Flatten(), fc=nn.Linear(12 * 144, 3))
    images, targets, _ = planted_images(3)
    with pytest.raises(UserError, match=r"the head of planted differs: use gradcam"):
        cam(network, images, targets)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("classes", [2, 3])
def test_maps_find_the_square_that_sets_the_class(method: str, classes: int, request: pytest.FixtureRequest) -> None:
    network = request.getfixturevalue("one" if classes == 2 else "three")
    images, targets, where = planted_images(18, classes, seed=9)
    heat = attribute(network, images, targets, method)
    near = nn.functional.max_pool2d(where[:, None].float(), 5, 1, 2)[:, 0] > 0  # the maps are half as fine
    assert heat.shape == (18, 24, 24)
    assert heat.dtype == torch.float32
    assert heat.device.type == "cpu"
    assert heat.amin() >= 0
    assert torch.equal(heat.amax((1, 2)), torch.ones(18))
    hottest = heat.flatten(1).argmax(1)
    assert near.flatten(1)[torch.arange(18), hottest].float().mean() > 0.8
    inside = (heat * where).sum((1, 2)) / where.sum((1, 2))
    outside = (heat * ~near).sum((1, 2)) / (~near).sum((1, 2))
    assert (inside > 4 * outside).float().mean() > 0.9


def test_with_one_logit_the_map_of_the_first_class_is_evidence_against_the_second(one: Network) -> None:
    images, _, _ = planted_images(6, 2, seed=5)
    pair = copy.deepcopy(one)
    linear = nn.Linear(12, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.cat([-one.head.fc.weight, one.head.fc.weight]))  # type: ignore[union-attr, arg-type]
    pair.head.fc = linear
    for target in (0, 1):
        targets = torch.full((6,), target)
        torch.testing.assert_close(gradcam(one, images, targets), gradcam(pair, images, targets), atol=1e-5, rtol=1e-4)


def test_channels_are_sorted_by_weight_and_add_up(three: Network) -> None:
    images, _, _ = planted_images(1)
    heaviest = channel_maps(three, images[0], 2, "high", top=4)
    weights = three.head.fc.weight[2].detach() / 144  # type: ignore[union-attr, index]
    assert [channel for channel, _, _ in heaviest] == weights.argsort(descending=True)[:4].tolist()
    for channel, weight, seen in heaviest:
        assert weight == pytest.approx(float(weights[channel]), rel=1e-4)
        assert seen.shape == (24, 24)
        assert 0 <= seen.min() <= seen.max() <= 1
    assert len(channel_maps(three, images[0], 0, "low", top=99)) == 8


def test_integrated_gradients_start_from_zeros(three: Network) -> None:
    images, targets, _ = planted_images(1)
    assert integrated_gradients(three, torch.zeros_like(images), targets).amax() == 0
    assert integrated_gradients(three, images, targets).amax() == 1


@pytest.mark.parametrize("method", METHODS)
def test_the_block_size_does_not_change_the_maps(method: str, three: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    images, targets, _ = planted_images(5)
    whole = attribute(three, images, targets, method)
    monkeypatch.setattr("opsin.interpretability.attribution.BLOCK", 2)
    torch.testing.assert_close(attribute(three, images, targets, method), whole, atol=1e-4, rtol=1e-3)
    assert attribute(three, images[:0], targets[:0], method).shape == (0, 24, 24)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "state", ["frozen", "inference", "made in inference", "autocast", "channels_last", "training", "no_grad", "float64"]
)
def test_maps_do_not_depend_on_the_state_of_the_network(method: str, state: str, three: Network) -> None:
    network = copy.deepcopy(three)
    images, targets, _ = planted_images(4)
    expected = attribute(network, images, targets, method)
    if state == "frozen":
        network.freeze("head")
        network.requires_grad_(False)
        found = attribute(network, images, targets, method)
    elif state == "inference":
        with torch.inference_mode():
            found = attribute(network, images.clone(), targets.clone(), method)
    elif state == "made in inference":
        with torch.inference_mode():
            found = attribute(copy.deepcopy(network), images.clone(), targets.clone(), method)
    elif state == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            found = attribute(network, images, targets, method)
    elif state == "channels_last":
        found = attribute(network.to(memory_format=torch.channels_last), images, targets, method)
    elif state == "training":
        found = attribute(network.train(), images, targets.int(), method)
        assert network.training
    elif state == "no_grad":
        with torch.no_grad():
            found = attribute(network, images, targets, method)
    else:
        found = attribute(network.double(), images, targets, method)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert not found.is_inference()
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["in place", "around", "a stage"])
def test_a_compiled_network_has_the_same_maps(place: str, three: Network) -> None:
    network = copy.deepcopy(three)
    images, targets, _ = planted_images(4)
    calls = []

    def counting(graph: torch.fx.GraphModule, _: object) -> object:
        calls.append(graph)
        return graph.forward

    given: nn.Module = network
    if place == "around":
        given = torch.compile(network, backend=counting)  # type: ignore[assignment]
    else:
        (network if place == "in place" else network.stages["low"]).compile(backend=counting)
    for method in METHODS:
        found = attribute(given, images, targets, method)
        torch.testing.assert_close(found, attribute(three, images, targets, method), atol=1e-4, rtol=1e-3)
    assert calls == []
    with torch.no_grad():
        given(images)
    assert calls  # still compiled


def test_a_relu_in_place_does_not_overwrite_the_maps() -> None:
    def network(inplace: bool) -> Network:
        torch.manual_seed(1)
        stages = {"conv": nn.Conv2d(3, 6, 3, padding=1), "relu": nn.ReLU(inplace=inplace), "next": nn.Conv2d(6, 6, 3)}
        head = sequential(
            relu=nn.ReLU(inplace=inplace), pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(6, 3)
        )
        return Network("inplace", stages, head)

    images, targets, _ = planted_images(4)
    for stage in ("conv", "relu", "next"):
        plain = gradcam(network(False), images, targets, stage)
        assert plain.amax() == 1
        torch.testing.assert_close(gradcam(network(True), images, targets, stage), plain)


def test_an_auxiliary_head_does_not_change_the_maps(three: Network) -> None:
    images, targets, _ = planted_images(4)
    network = copy.deepcopy(three)
    head = sequential(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(8, 3))
    network.auxiliary = Auxiliary(head, after="low", weight=0.3)
    torch.testing.assert_close(
        gradcam(network.train(), images, targets, "low"), gradcam(three, images, targets, "low"), atol=1e-5, rtol=1e-4
    )
    assert network.auxiliary.training
    network(images)
    assert network.auxiliary.take_logits() is not None


@pytest.mark.slow
@pytest.mark.parametrize("what", [*METHODS, "channels", "faithfulness", "randomisation"])
def test_the_network_is_unchanged(what: str) -> None:
    network = tiny(num_logits=3, in_channels=3, image_size=(24, 24)).train()
    network.freeze(["high"])
    images, targets, _ = planted_images(3)
    given = images.clone()

    def state() -> list[object]:
        modules = list(network.modules())
        tensors: list[Tensor] = [*network.parameters(), *network.buffers()]
        return [
            [module.training for module in modules],
            [
                len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
                for module in modules
            ],
            [(tensor.requires_grad, tensor.grad) for tensor in tensors],
            [tensor.flatten().tolist() for tensor in tensors],
            torch.get_rng_state().tolist(),
            torch.is_grad_enabled(),
        ]

    before = state()
    if what in METHODS:
        attribute(network, images, targets, what)
    elif what == "channels":
        channel_maps(network, images[0], 0)
    elif what == "faithfulness":
        faithfulness(network, images, targets, torch.rand(3, 24, 24, generator=torch.Generator()), steps=4)
    else:
        randomization_check(network, images, targets)
    assert state() == before
    assert torch.equal(images, given)


def test_unsupported_networks_and_targets_are_refused(three: Network) -> None:
    images, targets, _ = planted_images(3)
    with pytest.raises(
        UserError,
        match=r"unknown attribution method 'saliency': use one of gradcam, cam, integrated_gradients, occlusion",
    ):
        attribute(three, images, targets, "saliency")
    with pytest.raises(UserError, match=r"planted has no stage 'layer4'; the stages with maps are low, high"):
        gradcam(three, images, targets, "layer4")
    with pytest.raises(UserError, match=r"cam does not accept a stage \(got low\)"):
        attribute(three, images, targets, "cam", "low")
    with pytest.raises(UserError, match=r"window=30 .* on images of side 24"):
        occlusion(three, images, targets, window=30)
    stages = {"flatten": nn.Flatten(), "dense": nn.Linear(3 * 24 * 24, 8)}
    dense = Network("mlp", stages, nn.Linear(8, 3))
    with pytest.raises(UserError, match=r"mlp has no stage with maps"):
        gradcam(dense, images, targets)
    with pytest.raises(UserError, match=r"CAM needs a head .* the head of mlp differs"):
        cam(dense, images, targets)
    assert integrated_gradients(dense, images, targets).amax() == 1
    mixed = Network("mixed", {"low": nn.Conv2d(3, 2, 3), "flat": nn.Flatten()}, nn.Linear(2 * 22 * 22, 3))
    assert gradcam(mixed, images, targets).amax() > 0
    with pytest.raises(UserError, match=r"stage 'flat' of mixed has no maps .*; the stages with maps are low"):
        gradcam(mixed, images, targets, "flat")


class _ChannelsLast(nn.Module):
    """Output `(N, h, w, C)`, as timm's Swin has it."""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.conv2d(images, torch.ones(40, 3, 2, 2), stride=2).permute(0, 2, 3, 1)


def test_channels_last_outputs_are_refused() -> None:
    images, targets, _ = planted_images(2)
    network = Network("swin", {"layer1": _ChannelsLast()}, sequential(flatten=nn.Flatten(), fc=nn.Linear(5760, 3)))
    with pytest.raises(UserError, match="swin has no stage with maps"):
        gradcam(network, images, targets)


def test_channels_last_outputs_of_the_shape_of_a_map_are_refused() -> None:
    """`layer1` of Swin-T for images of 384 pixels is (N, 96, 96, 96)."""
    stages = {"stem": nn.Conv2d(3, 40, 2, stride=2), "layer1": nn.Identity()}
    network = Network("swin", stages, nn.Flatten(), maps_channels_last=True)
    assert list(activations(network, torch.zeros(1, 3, 80, 80))) == ["stem"]
    with pytest.raises(UserError, match="stage 'layer1' of swin has no maps"):
        gradcam(network, torch.zeros(1, 3, 80, 80), torch.zeros(1, dtype=torch.int64), "layer1")
    with pytest.raises(UserError, match="the output of layer1 is not a map"):
        activations(network, torch.zeros(1, 3, 80, 80), ["layer1"])


def test_images_need_not_be_square(three: Network) -> None:
    images = torch.randn(2, 3, 20, 45)
    for method in METHODS:
        assert attribute(three, images, torch.tensor([0, 2]), method).shape == (2, 20, 45)


@pytest.mark.parametrize("targets", [[0], [0, 1, 2, 0], [[0], [1], [2]], [0, 1, -1], [3, 0, 1]])
def test_targets_that_are_not_one_class_per_image_are_refused(targets: list[int], three: Network) -> None:
    images, _, _ = planted_images(3)
    message = "targets must be the index of a class for each of 3 images"
    for method in METHODS:
        with pytest.raises(UserError, match=message):
            attribute(three, images, torch.tensor(targets), method)
    with pytest.raises(UserError, match=message):
        faithfulness(three, images, torch.tensor(targets), images[:, 0])
    with pytest.raises(UserError, match="for each of 1 images"):
        channel_maps(three, images[0], -1)
    with pytest.raises(UserError, match="0 to 2, not"):
        channel_maps(three, images[0], 3)
