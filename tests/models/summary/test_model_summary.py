"""Numbers of the summary, compared with the lectures, torchinfo and gradients."""

import copy

import pytest
import torch
import torchinfo
from network_cases import CASES, Case, build
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

import opsin.models as models
from opsin.models import Network, layers_text, summarize, summarize_layers, summary_table, summary_text
from opsin.models.summary.layers import layers_of, memory_of


def case_of(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "millions"), [("cnn_flatten", "2.82"), ("cats_dogs_cnn", "234.16"), ("efficientnet_lite0", None)]
)
def test_multiply_adds_match_the_lectures_and_torchinfo(name: str, millions: str | None) -> None:
    case = case_of(name)
    network = build(case)
    summary = summarize(network, (case.in_channels, case.side, case.side))
    assert millions is None or f"{summary.mult_adds / 1e6:.2f}" == millions
    images = torch.zeros(1, case.in_channels, case.side, case.side)
    of_torchinfo = torchinfo.summary(network, input_data=images, verbose=0).total_mult_adds
    norms = [module for module in network.modules() if isinstance(module, BatchNormAct2d)]  # torchinfo leaves them out
    assert summary.mult_adds == of_torchinfo + sum(2 * norm.num_features for norm in norms)


class Same(nn.Conv2d):
    """A convolution without "Conv" in the name of its class."""


class Recurrent(nn.Module):
    """An LSTM over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 5, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.lstm(tokens)[0]


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (nn.Linear(4, 3), (4,), 15),
        (nn.Linear(4, 3), (7, 4), 7 * 15),
        (nn.Linear(4, 3, bias=False), (5, 6, 4), 30 * 12),
        (nn.Conv2d(4, 3, 1), (4, 5, 6), 30 * 15),
        (Same(4, 3, 1), (4, 5, 6), 30 * 15),
        (nn.Conv1d(4, 3, 1), (4, 7), 7 * 15),
        (nn.LayerNorm(4), (7, 4), 8),
        (nn.BatchNorm2d(4), (4, 5, 6), 8),
        (Recurrent(), (7, 4), 7 * (20 * 9 + 40)),
    ],
)
def test_multiply_adds_of_a_layer(layer: nn.Module, shape: tuple[int, ...], expected: int) -> None:
    found = layers_of("stem", nn.Sequential(layer).eval(), torch.zeros(1, *shape))
    assert sum(row.mult_adds for row in found) == expected


def test_multiply_adds_of_a_transformer() -> None:
    """Dense layers run once per token; products of attention are no layers."""
    summary = summarize(models.timm(num_logits=3, image_size=(32, 32), name="test_vit"), (3, 32, 32))
    block = summary.rows[1]
    assert block.mult_adds == 5 * (64 * 192 + 192 + 64 * 64 + 64) + 5 * (64 * 192 + 192 + 192 * 64 + 64) + 2 * 128


@pytest.mark.slow
def test_multiply_adds_of_vit_tiny_are_those_of_its_paper() -> None:
    network = models.timm(num_logits=1000, image_size=(224, 224), name="vit_tiny_patch16_224")
    assert summarize(network, (3, 224, 224)).mult_adds == pytest.approx(1.08e9, rel=0.01)


def test_multiply_adds_of_the_backbone() -> None:
    summary = summarize(build(case_of("cnn_gap")), (1, 28, 28))
    assert f"{sum(row.mult_adds for row in summary.rows[:-1]) / 1e6:.2f}" == "2.79"
    assert [row.output_shape for row in summary.rows] == [(32, 13, 13), (64, 5, 5), (64, 3, 3), (10,)]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_network_can_be_summarized_without_changing_it(case: Case) -> None:
    network = build(case, image_size=(case.trial, case.trial))
    network.freeze([case.stages[-1]])
    next(iter(network.stages.values())).train()  # a mixed mode must come back too
    modes = [module.training for module in network.modules()]
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    random = torch.get_rng_state()
    summary = summarize(network, (case.in_channels, case.trial, case.trial))
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(tensor, state[key]) for key, tensor in network.state_dict().items())
    assert [row.name for row in summary.rows] == [*case.stages, "head"]
    assert summary.parameters == sum(p.numel() for p in network.parameters())
    assert summary.trainable == sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert summary.frozen == summary.parameters - summary.trainable
    assert summary.rows[-1].output_shape == (case.num_logits,)


def test_table_and_text() -> None:
    network = models.resnet18(num_logits=1, image_size=(224, 224))
    network.freeze(["layer4"])
    summary = summarize(network, (3, 224, 224))
    text = summary_text(summary)
    assert text.startswith("resnet18 for images 3x224x224\n")
    layer4 = next(line for line in text.splitlines() if "layer4" in line)
    assert [cell.strip() for cell in layer4.split("│")[1:-1]] == [
        "layer4", "512x7x7", "8,393,728", "8,393,728", "411,046,912", "435 px"]  # fmt: skip
    total = next(line for line in text.splitlines() if "total" in line)
    assert "11,177,025" in total
    assert "8,394,241" in total
    assert "image" in next(line for line in text.splitlines() if "head" in line)
    assert "\x1b" not in text
    assert not any(line.endswith(" ") for line in text.splitlines())
    assert summary_table(summary).row_count == 6


def test_layers_and_memory_match_the_lectures_and_torchinfo() -> None:
    """The lectures state 0.24 MB of activations with gradients, 0.22 MB of parameters and 0.47 MB in all."""
    network = models.cnn_gap(num_logits=10, in_channels=1, image_size=(28, 28))
    summary, layers = summarize_layers(network, (1, 28, 28))
    body = [layer for layer in layers if layer.name.startswith("block")]
    memory = memory_of(body, (1, 28, 28))
    found = (2 * memory.activations, memory.parameters, memory.training)
    assert [f"{size:.2f}" for size in found] == ["0.24", "0.22", "0.47"]
    assert sum(layer.parameters for layer in layers) == summary.parameters
    assert sum(layer.mult_adds for layer in layers) == summary.mult_adds
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in layers_text(summary, layers).splitlines()]
    assert ["block2.conv", "Conv2d", "3x3", "64x11x11", "18,496", "0.074", "2,238,016", "0.031"] in rows
    assert ["block1.pool", "MaxPool2d", "2x2", "32x13x13", "", "", "", "0.022"] in rows
    assert "parameters 0.23 MB" in layers_text(summary, layers)
    case = case_of("cats_dogs_cnn")
    memory = memory_of(summarize_layers(build(case), (3, 150, 150))[1], (3, 150, 150))
    assert f"{memory.training:.2f}" == "11.18"


def test_normalization_with_an_activation_inside_is_a_layer() -> None:
    """EfficientNet-Lite0 of timm and EfficientNet-B0 of torchvision differ in squeeze-and-excitation only."""
    networks = models.efficientnet_lite0, models.efficientnet_b0
    layers = [summarize_layers(network(num_logits=10, image_size=(64, 64)), (3, 64, 64))[1] for network in networks]
    lite, b0 = (memory_of(found, (3, 64, 64)).activations for found in layers)
    assert 0.99 < lite / b0 < 1
    kinds = [[layer.kind for layer in found if "BatchNorm" in layer.kind] for found in layers]
    assert len(kinds[0]) == len(kinds[1]) == 49
    assert not [layer for layer in layers[0] if layer.kind == "parameters"]


def test_parameters_of_no_layer_are_listed_too() -> None:
    network = models.timm(num_logits=3, image_size=(32, 32), name="test_vit")
    summary, layers = summarize_layers(network, (3, 32, 32))
    others = [layer for layer in layers if layer.kind == "parameters"]
    assert [layer.name for layer in others] == ["stem (other)"]  # class token and positions
    assert sum(layer.parameters for layer in layers) == summary.parameters


@pytest.mark.parametrize(
    ("kernels", "weights", "extent"), [((7,), 49, 7), ((3, 3, 3), 27, 7), ((3,), 9, 3), (((1, 3), (3, 1)), 6, 3)]
)
def test_small_and_rectangular_kernels_have_an_equal_receptive_field_with_fewer_parameters(
    kernels: tuple[int | tuple[int, int], ...], weights: int, extent: int
) -> None:
    network = models.cnn_gap(num_logits=1, in_channels=1, image_size=(28, 28), widths=(1,), kernels=kernels, bias=False)
    summary, layers = summarize_layers(network, (1, 28, 28))
    block = summary.rows[0]
    assert (block.name, block.parameters, block.receptive_field) == ("block1", weights, extent)
    assert block.output_shape == (1, 29 - extent, 29 - extent)
    assert [layer.kernel for layer in layers if layer.kind == "Conv2d"] == [
        (size, size) if isinstance(size, int) else size for size in kernels
    ]


def widest_gradient(body: nn.Module, images: Tensor) -> int:
    """Return the side of the square of pixels that the center unit's gradient reaches.

    Average pools stand in for max-pools, which pass gradients to one pixel of each window only, and all
    weights are positive, so that nothing cancels.
    """
    for name, module in list(body.named_modules()):
        if isinstance(module, nn.MaxPool2d):
            pool = nn.AvgPool2d(module.kernel_size, module.stride, module.padding, module.ceil_mode)
            parent, _, child = name.rpartition(".")
            setattr(body.get_submodule(parent), child, pool)
        elif isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    images.requires_grad_()
    features = body.double().eval()(images)
    features[0, :, features.shape[2] // 2, features.shape[3] // 2].sum().backward()
    assert images.grad is not None
    rows, columns = images.grad[0].abs().sum(0).nonzero(as_tuple=True)
    reach = [int(axis.max() - axis.min()) + 1 for axis in (rows, columns)]
    assert int(rows.min()) > 0, "the image is too small for the field"
    assert int(columns.min()) > 0, "the image is too small for the field"
    return max(reach)


class Branches(nn.Module):
    """Two paths of different fields that meet, one with kernels that are not square."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(4, 4, 1, stride=2)
        self.wide = nn.Sequential(
            nn.Conv2d(4, 4, (1, 7), padding=(0, 3)),
            nn.Conv2d(4, 4, (5, 1), padding=(2, 0), stride=2),
            nn.Conv2d(4, 4, 3, padding=4, dilation=4, groups=2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.narrow(x), self.wide(x)], dim=1)


def branching() -> Network:
    stages = {
        "stem": nn.Sequential(nn.Conv2d(1, 4, 4, stride=3), nn.MaxPool2d(3, stride=2, padding=1)),
        "branches": nn.Sequential(Branches(), nn.BatchNorm2d(8), nn.ReLU()),
    }
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    return Network("branching", stages, head)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side"),
    [("cnn_gap", 40), ("lenet5", 40), ("cats_dogs_cnn", 96), ("strided_cnn", 256), ("mini_resnet", 160),
     ("branching", 200)],
)  # fmt: skip
def test_receptive_fields_match_the_gradients(name: str, side: int) -> None:
    network = branching() if name == "branching" else build(case_of(name), image_size=(side, side))
    channels = 1 if name == "branching" else case_of(name).in_channels
    rows = summarize(network, (channels, side, side)).rows
    for number, row in enumerate(rows[:-1], start=1):
        body = nn.Sequential(*copy.deepcopy(list(network.stages.values())[:number]))
        images = torch.rand(1, channels, side, side, dtype=torch.double) + 0.1
        assert row.receptive_field == widest_gradient(body, images), row.name
    assert rows[-1].receptive_field is None


def test_receptive_field_of_resnet18_follows_the_recurrence() -> None:
    rows = summarize(models.resnet18(num_logits=1, image_size=(224, 224)), (3, 224, 224)).rows
    stem = 7 + 2 * 2  # a 7x7 convolution, and a 3x3 pool two pixels apart
    layer1 = stem + 4 * 2 * 4  # four 3x3 convolutions four pixels apart
    layer2 = layer1 + 2 * 4 + 3 * 2 * 8  # from here on, the first convolution halves the image
    layer3 = layer2 + 2 * 8 + 3 * 2 * 16
    layer4 = layer3 + 2 * 16 + 3 * 2 * 32
    assert [row.receptive_field for row in rows] == [stem, layer1, layer2, layer3, layer4, None]
