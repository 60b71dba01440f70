"""Plain modules as networks: every kind is divided without a change of its function, or refused with the reason."""

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import plain_networks as plain
import pytest
import torch
from tiny import tiny
from torch import Tensor, nn
from torch.nn import functional as F

from opsin.errors import UserError
from opsin.interpretability.activations import activations
from opsin.interpretability.attribution import gradcam
from opsin.models import Network, summarize
from opsin.models.fine_tuning import FineTuning
from opsin.models.freezing import FreezeContract, fixed_message
from opsin.models.load_weights import load_weights
from opsin.models.plain_network import as_network, check_network, first_channels
from opsin.models.shapes import on_meta
from opsin.training.feature_cache import cacheable_step
from opsin.training.feature_extraction import own_sources
from opsin.training.optim.parameter_groups import GroupOptions, parameter_groups
from opsin.training.recording import parameter_counts

STAGES: dict[Callable[[], nn.Module], tuple[list[str], list[str]]] = {
    plain.layers: (["conv2d_0", "batchnorm2d_1", "conv2d_4"], ["neck", "fc"]),
    plain.Functional: (["conv1", "conv2", "fc1"], ["fc"]),
    plain.Wrapped: (["conv2d_0"], ["neck_0", "neck_1", "fc"]),
    plain.Skip: (["a", "b", "scale"], ["neck", "fc"]),
    plain.Shared: (["stem", "block"], ["neck", "fc"]),
    plain.DependsOnValues: (["body"], ["fc"]),
    plain.DependsOnMode: (["body"], ["fc"]),
    plain.Stem: (["flatten"], ["fc"]),
    plain.FullyConvolutional: (["conv1"], ["fc"]),
}
"""The stages and the parts of the head of each network."""
WITH_MAPS = [make for make in STAGES if make not in (plain.Stem, plain.DependsOnValues, plain.DependsOnMode)]


def convert(module: nn.Module, **changes: object) -> Network:
    facts = {"num_logits": 10, "in_channels": 1, "image_size": (8, 8)}
    return as_network(getattr(module, "name", "mine"), module, **(facts | changes))  # type: ignore[arg-type]


def images(seed: int = 0) -> Tensor:
    return torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("make", STAGES)
def test_the_network_and_the_module_compute_equal_outputs(make: Callable[[], nn.Module]) -> None:
    module = make()
    module(images())  # lazy layers
    original = copy.deepcopy(module)
    network = convert(module)
    names = [name for name, _ in network.head.named_children()]
    assert (list(network.stages), names) == STAGES[make]
    assert network.training
    for mode in (False, True):
        outputs = []
        for found in (original, network):
            torch.manual_seed(3)
            outputs.append(found.train(mode)(images(1)))
        torch.testing.assert_close(outputs[1], outputs[0])
    mine = (
        {id(tensor) for tensor in module.state_dict(keep_vars=True).values()} if "body" not in network.stages else None
    )
    if mine is not None:
        assert {id(tensor) for tensor in network.state_dict(keep_vars=True).values()} == mine
    assert set(network.original_keys.values()) == set(original.state_dict())
    copy.deepcopy(network)(images())
    on_meta(network)


@pytest.mark.parametrize(
    "make",
    [
        plain.SkipsAtRandom,
        plain.SkipsByPython,
        plain.SkipsByNumpy,
        lambda: plain.SkipsByOwnGenerator(random.Random(0)),
        lambda: plain.SkipsByOwnGenerator(np.random.default_rng(0)),
        lambda: plain.SkipsByOwnGenerator(torch.Generator().manual_seed(0)),
        lambda: nn.Sequential(plain.SkipsByPython()),
    ],
)
def test_a_random_choice_in_a_forward_function_is_not_traced_away(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    network = convert(make())
    assert list(network.stages) == ["body"]
    with torch.no_grad():
        logits = torch.stack([network(images()) for _ in range(50)])
    assert len(logits.unique(dim=0)) == 2


class FixedFilters(plain.Functional):
    """One layer of filters that do not train, such as Gabor filters, and a table of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1.weight.requires_grad_(False)
        self.conv2.table = nn.Parameter(torch.arange(3), requires_grad=False)


class FixedBody(plain.DependsOnValues):
    """A fixed layer in a network that is not divided."""

    def __init__(self) -> None:
        super().__init__()
        self.conv.requires_grad_(False)


class FixedHead(plain.Functional):
    """A head that does not train."""

    def __init__(self) -> None:
        super().__init__()
        self.fc2.requires_grad_(False)


def fixed_network() -> Network:
    """A network of named stages."""
    network = tiny(num_logits=10, in_channels=1, image_size=(8, 8))
    network.stages["middle"].requires_grad_(False)
    return network


FIXED: dict[Callable[[], nn.Module], int] = {
    plain.Fixed: 80 + 16,
    FixedFilters: 72 + 3,
    FixedBody: 80,
    FixedHead: 330,
    fixed_network: 216 + 12,
}
"""The number of parameters that each network keeps from training."""


@pytest.mark.parametrize("make", FIXED)
@pytest.mark.parametrize("before", ["all", "head"])
def test_parameters_that_the_code_of_a_network_fixes_never_train(make: Callable[[], nn.Module], before: str) -> None:
    network = convert(make())
    network.freeze(before)
    network.freeze("all")
    fixed = {name: p.clone() for name, p in network.named_parameters() if not p.requires_grad}
    assert fixed.keys() == network.fixed
    assert sum(value.numel() for value in fixed.values()) == FIXED[make]
    contract = FreezeContract()
    contract.hold(network)
    groups = parameter_groups(network, GroupOptions(weight_decay=0.1), FineTuning(), network.stages)
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters())) - len(fixed)
    optimizer = torch.optim.SGD(groups, lr=0.1)
    network.train()(images()).square().sum().backward()
    optimizer.step()
    now = dict(network.named_parameters())
    assert all(torch.equal(now[name], value) for name, value in fixed.items())
    assert contract.changed(network) == contract.changed(network, ()) == []
    assert contract.covers(network, ())
    schedule = FineTuning(trainable="head", unfreeze_every=1).freeze_schedule(network)
    counts = parameter_counts(network, schedule)
    assert (counts.frozen, counts.phases[-1].frozen) == (FIXED[make], FIXED[make])
    assert f"{FIXED[make]:,} parameters in " in fixed_message(network)
    with torch.no_grad():
        now[min(fixed)].add_(1)
    assert contract.changed(network, ()) == [min(fixed)]


@pytest.mark.parametrize(("mode", "trains"), [("", True), ("constructor", False), ("train", False)])
def test_fixed_layers_have_the_mode_that_the_code_of_the_network_gives_them(mode: str, trains: bool) -> None:
    network = convert(plain.Fixed(mode=mode))
    network.freeze("all")
    for part in network.eval().train().stages["backbone"].modules():
        assert part.training == trains
    statistics = network.stages["backbone"][1].running_mean.clone()
    network(images())
    assert torch.equal(network.stages["backbone"][1].running_mean, statistics) != trains
    assert network.stages["conv"].training
    assert not any(part.training for part in network.eval().modules())


def test_a_train_method_decides_the_mode_of_layers_that_train_too() -> None:
    module = plain.Fixed(mode="train")
    module.backbone.requires_grad_(True)
    network = convert(module)
    assert not network.fixed
    assert not network.stages["backbone"].training


@pytest.mark.parametrize("make", STAGES)
def test_stages_can_be_frozen_summarized_and_loaded_by_the_names_of_the_module(
    make: Callable[[], nn.Module], tmp_path
) -> None:
    network = convert(make())
    summary = summarize(network, (1, 8, 8))
    assert [row.name for row in summary.rows] == [*network.stages, "head"]
    assert summary.rows[-1].output_shape == (10,)
    network.freeze("head")
    assert {name for name, p in network.named_parameters() if p.requires_grad} == {
        name for name, _ in network.named_parameters() if name.startswith("head.")
    }
    before = copy.deepcopy(network.stages.state_dict())
    network.train()(images()).sum().backward()
    assert all(torch.equal(value, before[key]) for key, value in network.stages.state_dict().items())
    assert cacheable_step(network, tuple(network.stages)) == network.embedding_step
    assert network.embed(images()).ndim == 2
    other = make()
    other(images())
    torch.save(other.state_dict(), tmp_path / "weights.pt")
    assert load_weights(network, str(tmp_path / "weights.pt")).head
    torch.testing.assert_close(network.eval()(images()), other.eval()(images()))


@pytest.mark.parametrize("make", WITH_MAPS)
def test_activations_and_grad_cam_work_on_plain_modules(make: Callable[[], nn.Module]) -> None:
    network = convert(make())
    assert activations(network, images())[next(iter(network.stages))].ndim == 4
    maps = gradcam(network, images(), torch.zeros(4, dtype=torch.int64))
    assert maps.shape == (4, 8, 8)


def test_a_network_is_unchanged_and_a_dropout_function_becomes_a_layer() -> None:
    network = convert(plain.Functional())
    assert convert(network) is network
    assert any(isinstance(layer, nn.Dropout) for layer in network.modules())
    torch.manual_seed(0)
    assert not torch.equal(network.train()(images()), network(images()))


def test_the_text_of_a_stage_contains_its_operations() -> None:
    """The feature cache knows a stage by its text and its weights."""
    assert "relu" in repr(convert(plain.Functional()).stages["conv1"])
    assert own_sources(convert(plain.Functional()).stages.values()) == []
    assert "x / 1000" in own_sources(convert(plain.DependsOnValues()).stages.values())[0]


class Two(plain.Stem):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return super().forward(x), x


class TwoInTraining(plain.Stem):
    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return (out, out) if self.training else out  # type: ignore[return-value]


class Typo(plain.Stem):
    def forward(self, x: Tensor) -> Tensor:
        return self.fcc(torch.flatten(x, 1))


class TypoInTraining(plain.Stem):
    def forward(self, x: Tensor) -> Tensor:
        return (self.fcc if self.training else self.fc)(torch.flatten(x, 1))


class WrongSize(plain.Stem):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(x[..., 1:], 1))


class NotFlat(plain.Stem):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


class Unpacks(plain.Stem):
    def forward(self, x: Tensor) -> Tensor:
        n, c, h = x.shape
        return self.fc(x.reshape(n, c * h))


class AlwaysDropout(plain.Stem):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.dropout(torch.flatten(x, 1)))


class Noise(plain.DependsOnValues):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + torch.randn_like(x))


class Softmax(plain.Stem):
    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(super().forward(x), 1)


class Scaled(plain.DependsOnValues):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class Rows(plain.Stem):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(x, 1)).mean(1)


class ViewBlock(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(len(x), -1)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "outputs": (lambda: plain.layers(7), "mine has 7 outputs, but the data need 10: .* num_logits or num_classes"),
    "size": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(100, 10)), "does not run on images of shape 1x8x8 .*100x10"),
    "tuple": (Two, "returns tuple, not a tensor of logits"),
    "training": (TwoInTraining, "returns tuple in training mode"),
    "softmax": (Softmax, "ends in softmax, but the loss needs logits"),
    "layer": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Softmax(1)), "ends in softmax"),
    "sigmoid": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Sigmoid()), "ends in sigmoid"),
    "scaled": (Scaled, "its output is not that of its last linear layer, fc. Let its forward"),
    "vector": (Rows, r"returns a tensor of shape \(2,\)"),
    "view": (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), ViewBlock(), nn.Linear(144, 10)), "Use reshape or flatten"),
    "empty": (lambda: nn.Sequential(nn.Flatten()), "has no parameters"),
    "function": (lambda: lambda x: x, "returns function, not a torch.nn.Module"),  # type: ignore[dict-item,return-value]
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_module_that_cannot_be_used_is_refused_with_the_reason(case: str) -> None:
    make, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        convert(make())


PLACED: dict[type[nn.Module], str] = {
    Typo: r"1x8x8 .*: AttributeError: .* 'fcc' \(.*test_plain_network\.py:\d+, in forward: return self\.fcc\(.*\)$",
    TypoInTraining: r"in training mode: AttributeError: .*'fcc' \(.*, in forward: return \(self\.fcc if .*\)$",
    WrongSize: r"in forward: .*\. The layer gets 56 features: write nn\.Linear\(56, .*datamodule\.image_size$",
    NotFlat: r"The layer gets 8 features in 16 rows for 2 images: call x\.flatten\(1\) before, or write nn\.Linear\(8",
    Unpacks: r"in forward: n, c, h = x\.shape\)\. Its constructor .* datamodule\.image_size$",
    AlwaysDropout: r"draws random numbers in evaluation mode \(F\.dropout needs training=self\.training\)",
    Noise: "draws random numbers in evaluation mode",
}


@pytest.mark.parametrize("make", PLACED)
def test_an_error_of_a_forward_function_is_named_with_its_line(make: type[nn.Module]) -> None:
    with pytest.raises(UserError, match=PLACED[make]) as caught:
        convert(make())
    if "in forward" in PLACED[make]:
        assert caught.value.__cause__ is not None  # its traceback is saved with the run


@pytest.mark.parametrize(
    ("head", "message"),
    [(Typo(), r"mine does not run .*'fcc' \(.*in forward: return self\.fcc"), (nn.Linear(64, 7), "mine has 7 outputs")],
)
def test_a_network_of_named_stages_is_checked_too(head: nn.Module, message: str) -> None:
    network = Network("mine", {"stem": nn.Flatten()}, nn.Sequential(head))
    with pytest.raises(UserError, match=message):
        check_network("mine", network, num_logits=10, in_channels=1, image_size=(8, 8))


class Doubling(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x) * 2


@pytest.mark.parametrize("kind", [nn.Sequential, Doubling])
def test_a_head_runs_as_it_is_written(kind: type[nn.Sequential]) -> None:
    """Also from the first stage on, as with cached features: with one layer used twice, and with its own function."""
    act = nn.ReLU()
    head = kind(nn.Flatten(), nn.Linear(64, 8), act, nn.Linear(8, 8), act, nn.Linear(8, 10))
    network = Network("mine", {"stem": nn.Conv2d(1, 1, 1)}, head).eval()
    assert torch.equal(network(network.stages["stem"](images()), after="stem"), network(images()))
    assert len(network.steps()) == (7 if kind is nn.Sequential else 2)


class TwiceInside(nn.Module):
    """A head that begins with a layer that it uses again."""

    def __init__(self) -> None:
        super().__init__()
        act = nn.ReLU()
        self.conv, self.head = (
            nn.Conv2d(1, 4, 8),
            nn.Sequential(nn.Flatten(), act, nn.Linear(4, 8), act, nn.Linear(8, 10)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x))


def test_a_layer_used_twice_does_not_prevent_the_division() -> None:
    network = convert(module := TwiceInside())
    assert list(network.stages) == ["conv"]
    torch.testing.assert_close(network.eval()(images()), module.eval()(images()))


def test_two_classes_need_one_logit() -> None:
    with pytest.raises(UserError, match=r"has 2 outputs, but the data need 1: .*loss\.function=cross_entropy"):
        convert(plain.layers(2), num_logits=1)


@pytest.mark.parametrize(
    ("module", "channels"),
    [
        (plain.layers(in_channels=3), 3),
        (plain.Functional(), 1),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), 1),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 10)), 3),
        (nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 10)), None),
        (nn.Sequential(nn.LazyConv2d(4, 3)), None),
    ],
)
def test_the_number_of_channels_is_read_from_the_first_layer(module: nn.Module, channels: int | None) -> None:
    assert first_channels(module, (8, 8)) == channels


class Tracked(nn.Module):
    """A network that runs a function on its features, in training only, and counts the passes."""

    def __init__(self, change: Callable[["Tracked", Tensor], Any]) -> None:
        super().__init__()
        self.change = change
        self.conv = nn.Conv2d(1, 4, 3)
        self.count = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 2)
        self.register_buffer("level", torch.zeros(()))
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x)
        if self.training:
            self.passes += 1
            self.change(self, maps)
        return self.fc((maps - self.level).relu().mean((2, 3)))


def noise(network: Tracked, maps: Tensor) -> None:
    maps.mul_(1 + torch.rand_like(maps))


def erased(network: Tracked, maps: Tensor) -> None:
    maps[:, 0] = 0.0


def masked(network: Tracked, maps: Tensor) -> None:
    maps.masked_fill_(maps > 0.1, 0.0)


def level_in_place(network: Tracked, maps: Tensor) -> None:
    network.level.lerp_(maps.detach().mean(), 0.1)


def level_assigned(network: Tracked, maps: Tensor) -> None:
    network.level = 0.9 * network.level + 0.1 * maps.detach().mean()


def counted(network: Tracked, maps: Tensor) -> None:
    network.count(maps)


@pytest.mark.parametrize("change", [noise, erased, masked, level_in_place, level_assigned, counted])
def test_operations_of_training_whose_result_is_not_used_are_kept(change: Callable[[Tracked, Tensor], Any]) -> None:
    own = Tracked(change)
    original = copy.deepcopy(own)
    network = as_network("own", own, num_logits=2, in_channels=1, image_size=(8, 8)).train()
    assert (own.passes, float(own.level)) == (0, 0.0)
    images = torch.rand(3, 1, 8, 8)
    for _ in range(2):
        outputs = []
        for module in (network, original):
            torch.manual_seed(0)
            outputs.append(module(images))
        torch.testing.assert_close(*outputs)
    state = {key.rpartition("stages.body.")[2]: value for key, value in network.state_dict().items()}
    assert all(torch.equal(value, state[key]) for key, value in original.state_dict().items() if "fc" not in key)
