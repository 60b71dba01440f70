"""Gradient ascent finds the pattern of a filter and changes only the image."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from tiny import tiny
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from opsin.errors import UserError
from opsin.interpretability.eval_context import eval_context
from opsin.interpretability.feature_visualization import Ascent, _Objective, ascend
from opsin.models import Network, cnn_gap, mini_resnet, resnet18
from opsin.models.network import sequential

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture
def network() -> Network:
    """A network whose kernels respond to contrast and not to brightness, like most learned kernels."""
    torch.manual_seed(0)
    network = tiny(num_logits=3, in_channels=3, image_size=(24, 24), norm=False)
    with torch.no_grad():
        for stage in network.stages.values():
            weight = stage.conv.weight
            weight.copy_(4 * (weight - weight.mean(dim=(1, 2, 3), keepdim=True)))
            stage.conv.bias.zero_()
    return network


def climb(network: Network, step: str, channels: list[int], **options) -> Ascent:
    given = {"size": (24, 24), "steps": 60, "upscalings": 0, "lr": 0.05, "mean": MEAN, "std": STD, **options}
    return ascend(network, step, channels, **given)


def seen(network: Network, pictures: np.ndarray, step: str) -> torch.Tensor:
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255
    images = (pixels - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    with torch.no_grad():
        return network.eval().forward_features(images, step).mean(dim=(2, 3))


def test_the_activation_rises_and_is_that_of_the_image(network: Network) -> None:
    found = climb(network, "high", list(range(8)))
    assert found.pictures.shape == (8, 24, 24, 3)
    assert found.pictures.dtype == np.uint8
    speaks = [i for i in range(8) if found.start[i] > 0]
    assert len(speaks) >= 3
    assert all(found.end[i] > 3 * found.start[i] for i in speaks)
    np.testing.assert_allclose(found.end, seen(network, found.pictures, "high").diagonal(), rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("step", ["high", "head.fc"])
def test_parameters_of_another_precision_see_images_of_it(network: Network, dtype: torch.dtype, step: str) -> None:
    found = climb(network.to(dtype), step, [0, 1], steps=3)
    assert found.pictures.shape == (2, 24, 24, 3)
    assert all(end > start for start, end in zip(found.start, found.end, strict=True))


def test_the_image_of_an_edge_filter_has_edges() -> None:
    """A Sobel kernel responds to a dark area above a light one: rows differ, and columns hardly differ."""
    conv = nn.Conv2d(1, 1, 3, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[-1.0, -2, -1], [0, 0, 0], [1, 2, 1]]))
    network = Network("sobel", {"edges": sequential(conv=conv, relu=nn.ReLU())}, nn.Identity())
    found = ascend(
        network, "edges", [0], size=(18, 18), steps=100, upscalings=0, mean=(0.5,), std=(0.5,), channels_in=1
    )
    picture = found.pictures[0, ..., 0].astype(float)
    assert found.end[0] > 10 * found.start[0]
    assert np.abs(np.diff(picture, axis=0)).mean() > 3 * np.abs(np.diff(picture, axis=1)).mean()


def test_a_filter_that_is_zero_at_first_is_activated(network: Network) -> None:
    with torch.no_grad():
        network.stages["high"].conv.bias[2] = -6.0
    found = climb(network, "high", [2])
    assert found.start == (0.0,)
    assert found.end[0] > 0.1


def test_the_image_grows_with_each_upscaling(network: Network) -> None:
    found = climb(network, "middle", [0, 5], size=(16, 20), upscalings=3, factor=1.5, blur=5, steps=5)
    assert found.pictures.shape == (2, 54, 68, 3)  # 16, 24, 36, 54 and 20, 30, 45, 68


def test_noise_is_seeded_and_filters_are_independent(network: Network) -> None:
    both, again, other = (climb(network, "low", [1, 3], steps=5, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(both.pictures, again.pictures)
    assert (both.pictures != other.pictures).any()
    alone = climb(network, "low", [3], steps=5)
    assert np.abs(alone.pictures[0].astype(int) - both.pictures[1]).max() <= 1


def test_a_frozen_network_in_inference_mode_is_unchanged(network: Network) -> None:
    network.freeze("head")
    network.train()
    modes = [module.training for module in network.modules()]
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    generator = torch.get_rng_state()
    with torch.inference_mode():
        found = climb(network, "high", [1], steps=10)
    assert found.end[0] > found.start[0]
    assert [module.training for module in network.modules()] == modes
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert torch.equal(torch.get_rng_state(), generator)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_a_logit_is_maximized_like_a_filter(network: Network) -> None:
    found = climb(network, "head.fc", [0, 2])
    assert all(end > start + 0.1 for start, end in zip(found.start, found.end, strict=True))


def test_gray_images_for_a_network_with_three_channels(network: Network) -> None:
    found = climb(network, "low", [0], channels_in=1, steps=5)
    assert found.pictures.shape == (1, 24, 24, 1)


@pytest.mark.parametrize(
    ("step", "channels", "options", "message"),
    [
        ("hgih", [0], {}, "no stage or layer 'hgih'"),
        ("high", [8], {}, "high has channels 0 to 7, not 8"),
        ("high", [-1], {}, "not -1"),
        ("high", [], {}, "no filters of high"),
        ("high", [0], {"blur": 4}, "odd blur"),
        ("high", [0], {"steps": 0}, "steps >= 1"),
    ],
)
def test_invalid_arguments_are_named(
    network: Network, step: str, channels: list[int], options: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        climb(network, step, channels, **options)


def test_a_stage_that_cannot_run_at_the_image_size_is_named() -> None:
    stages = {"only": sequential(conv=nn.Conv2d(1, 2, 3), relu=nn.ReLU())}
    network = Network("fixed", stages, sequential(flatten=nn.Flatten(), fc=nn.Linear(2 * 36, 2)))
    with pytest.raises(UserError, match=r"head\.fc cannot run on 9x9 pixels"):
        ascend(network, "head.fc", [0], size=(9, 9), upscalings=0, mean=(0.5,), std=(0.5,), channels_in=1)


class Picky(nn.Module):
    """A layer that takes some sizes only, as the embedding of a vision transformer does."""

    def __init__(self, sides: range, error: type[Exception]) -> None:
        super().__init__()
        self.sides, self.error = sides, error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2] not in self.sides:
            raise self.error(f"no {x.shape[2]}")
        return x


@pytest.mark.parametrize("error", [AssertionError, ValueError, RuntimeError])
@pytest.mark.parametrize(("sides", "named"), [(range(24, 25), "12x12"), (range(1, 15), r"17x17 pixels \(no 17\)")])
def test_a_network_of_one_size_is_refused_with_the_way_out(error: type[Exception], sides: range, named: str) -> None:
    """Before any step, also if only the last size is too large."""
    stages = {"only": nn.Sequential(Picky(sides, error), nn.Conv2d(3, 2, 3))}
    network = Network("fixed", stages, nn.Flatten())
    with pytest.raises(UserError, match=rf"only cannot run on {named}.*--upscalings 0"):
        climb(network, "only", [0], size=(12, 12), upscalings=2, steps=10**9)


def rectifier_at_the_end(stage: nn.Module) -> nn.Module | None:
    network = Network("one", {"only": stage}, nn.Linear(3, 3))
    objective = _Objective(network, "only", MEAN, STD)
    with eval_context(network):
        objective.check([0], torch.zeros(1, 3, 8, 8), (8, 8))
    return objective._rectifier


def test_the_last_rectifier_is_that_whose_output_leaves_the_step() -> None:
    act, other = nn.ReLU(), nn.ReLU6()
    conv = nn.Conv2d(3, 3, 3)
    assert rectifier_at_the_end(nn.Sequential(act, conv, act)) is act
    assert rectifier_at_the_end(nn.Sequential(act, conv)) is None
    assert rectifier_at_the_end(nn.Sequential(act, nn.Identity(), nn.Dropout2d(), nn.MaxPool2d(2))) is act
    assert rectifier_at_the_end(nn.Sequential(act, conv, nn.Sequential(other), nn.AvgPool2d(2))) is other
    assert rectifier_at_the_end(other) is other
    assert rectifier_at_the_end(nn.Sequential(conv, nn.ReLU(inplace=True), nn.BatchNorm2d(3))) is None


def residual_stage(block: type[BasicBlock | Bottleneck], bias: float) -> nn.Module:
    """Return a convolution and a residual block of torchvision, whose ReLU runs twice or more, in place."""
    torch.manual_seed(0)
    stage = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), block(16, 16 // block.expansion))
    last = stage[1].bn3 if block is Bottleneck else stage[1].bn2
    nn.init.constant_(last.bias, bias)
    return stage


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_a_zero_filter_of_a_residual_block_is_activated(block: type[BasicBlock | Bottleneck]) -> None:
    """The block registers its ReLU before the last convolution, and calls it after the addition."""
    stage = residual_stage(block, bias=-1.0)
    found = climb(Network("residual", {"only": stage}, nn.Flatten()), "only", list(range(8)), size=(16, 16), steps=30)
    assert found.start == (0.0,) * 8
    assert min(found.end) > 0.2
    assert rectifier_at_the_end(stage) is stage[1].relu


def test_zero_filters_of_resnet18_are_activated() -> None:
    torch.manual_seed(0)
    network = resnet18(num_logits=10, image_size=(64, 64))
    nn.init.constant_(network.stages["layer4"][1].bn2.bias, -4.0)
    found = climb(network, "layer4", [0, 1], size=(64, 64), steps=15, lr=0.02)
    assert found.start == (0.0, 0.0)
    assert min(found.end) > 0.5


@pytest.mark.parametrize(
    ("network", "step", "name"),
    [
        (partial(cnn_gap, in_channels=3), "block1", "block1.relu"),
        (partial(mini_resnet, in_channels=3), "layer1", "layer1.1.relu2"),
        (resnet18, "layer1", "layer1.1.relu"),
        (resnet18, "layer1.0.bn1", None),
    ],
)
def test_the_rectifier_of_a_step_is_named(network: Callable[..., Network], step: str, name: str | None) -> None:
    built = network(num_logits=2, image_size=(32, 32))
    objective = _Objective(built, step, MEAN, STD)
    with eval_context(built):
        objective.check([0], torch.zeros(1, 3, 32, 32), (32, 32))
    assert objective._rectifier is (built.stages.get_submodule(name) if name else None)
