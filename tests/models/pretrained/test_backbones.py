"""The interface of all pretrained networks, of torchvision and timm."""

import copy
import io
import pickle
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision
from backbone_cases import BACKBONES, Backbone, every_backbone
from torch import Tensor, nn

import opsin.models as models
from opsin.errors import UserError
from opsin.models import Network, load_weights, summarize
from opsin.models.export_weights import library_state
from opsin.models.fine_tuning import FineTuning
from opsin.models.load_weights import _load, _renamed
from opsin.training.loss import ClassificationLoss
from opsin.training.module import Classifier
from opsin.training.optim.parameter_groups import GroupOptions, parameter_groups


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def randomized(model: nn.Module) -> nn.Module:
    """Give every tensor, BatchNorm statistics too, a value of its own, small enough for a hundred layers."""
    generator = torch.Generator().manual_seed(1)
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.mul_(torch.rand(tensor.shape, generator=generator) + 0.5)
            if tensor.ndim == 1:
                tensor.add_(3.0 if key.endswith("running_var") else 0.01)
    return model.eval()


def images_for(case: Backbone, number: int = 2) -> Tensor:
    return torch.randn(number, 3, case.trial, case.trial, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
@every_backbone
def test_shapes_stages_and_counts(case: Backbone) -> None:
    network = case.build(num_logits=3).eval()
    assert tuple(network.stages) == case.stages
    expected = case.parameters
    if expected is None:
        original = case.original(3)
        expected = count(original) - count(original.get_classifier()) - case.neck  # type: ignore[operator]
    assert count(network.stages) == expected
    assert count(network.head) == case.neck + case.features * 3 + 3
    assert isinstance(network.head, nn.Sequential)
    first, *_, last = network.head.named_children()
    assert (first[0], last[0]) == ("pool", "fc")
    assert not any(getattr(module, "inplace", False) for module in network.modules())
    images = images_for(case)
    with torch.no_grad():
        x = images
        for stage in network.stages.values():
            x = stage(x)
        assert torch.equal(network.forward_features(images), x)
        assert torch.equal(network(images), network.head(x))
    assert network(images[:1]).shape == (1, 3)
    rows = summarize(network, (3, case.trial, case.trial)).rows
    assert [row.name for row in rows] == [*case.stages, "head"]
    assert sum(row.parameters for row in rows) == count(network)


@pytest.mark.slow
@every_backbone
def test_original_weights_give_the_original_features_and_logits(case: Backbone) -> None:
    original = randomized(case.original(num_logits=3))
    images = images_for(case)
    network = case.build(num_logits=3).eval()
    loaded = _load(network, _renamed(network, dict(original.state_dict()), "original"), "original")
    assert loaded.head != case.has_dense_layers
    assert loaded.unexpected == () or all(key.startswith("AuxLogits") for key in loaded.unexpected)
    with torch.no_grad():
        if case.has_dense_layers:
            assert torch.equal(network.forward_features(images), original.features(images))  # type: ignore[operator]
        else:
            logits = original(images)
            assert logits.isfinite().all()
            assert torch.equal(network(images), logits)

    dense = case.build(num_logits=5, head="dense", head_units=7).eval()
    old = copy.deepcopy(dense.head)
    loaded = _load(dense, _renamed(dense, dict(original.state_dict()), "original"), "original")
    assert not loaded.head
    assert loaded.tensors == len(dense.state_dict()) - 4
    assert set(loaded.missing) == {f"head.fc{layer}.{kind}" for layer in (1, 2) for kind in ("weight", "bias")}
    assert torch.equal(dense.head.fc2.weight, old.fc2.weight)  # type: ignore[union-attr]
    with torch.no_grad():
        assert torch.equal(dense.forward_features(images), network.forward_features(images))


@pytest.mark.slow
@every_backbone
def test_frozen_stages_do_not_change_and_others_do(case: Backbone) -> None:
    torch.manual_seed(0)
    network = case.build(num_logits=3, head="dense").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.freeze("last:1")
    assert network.frozen_stages == case.stages[:-1]
    network.train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, weight_decay=0.1)
    loss = network(images_for(case, 3).to(memory_format=torch.channels_last)).square().sum()
    loss.backward()
    optimizer.step()
    trains = (f"stages.{case.stages[-1]}.", "head.")
    for key, value in network.state_dict().items():
        if not key.startswith(trains):
            assert torch.equal(value, before[key]), f"{key} is frozen and changed"
    changed = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert {key.split(".")[0] for key in changed} == {"stages", "head"}
    assert all(value.isfinite().all() for value in network.state_dict().values())


@pytest.mark.slow
@every_backbone
def test_copies_and_pickles_are_the_same_network(case: Backbone) -> None:
    network = case.build()
    network.freeze("head")
    network.eval()
    images = images_for(case)
    with torch.no_grad():
        logits = network(images)
        for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
            assert torch.equal(other(images), logits)
            assert other.train().frozen_stages == case.stages
            next(other.head.parameters()).add_(1)  # a copy shares no tensors
        assert torch.equal(network(images), logits)
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    network.load_state_dict(torch.load(file, weights_only=True))


def test_the_lectures_mobilenet_counts() -> None:
    network = models.mobilenet_v2(num_logits=5, image_size=(224, 224), head="dense")
    assert count(network) == 2_553_093
    network.freeze("head")
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == 329_221


def test_the_lectures_vgg16_at_150_pixels() -> None:
    network = models.vgg16(num_logits=1, image_size=(150, 150), head="dense").eval()
    with torch.no_grad():
        assert network.forward_features(torch.zeros(1, 3, 150, 150)).shape == (1, 512, 4, 4)
    assert count(network) == 14_714_688 + 512 * 4 * 4 * 256 + 256 + 256 + 1
    network.freeze(["block5"])
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == 3 * (512 * 9 + 1) * 512 + 2_097_665
    network.freeze("last:3")  # the lecture: trainable from the third of five convolutional blocks on
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == 16_552_193
    assert [name for name, _ in network.head.named_children()] == ["flatten", "fc1", "relu", "dropout", "fc2"]


@pytest.mark.parametrize(
    ("name", "side", "layers"),
    [
        pytest.param("alexnet", 64, ["dropout1", "fc1", "relu1", "dropout2", "fc2", "relu2"], marks=pytest.mark.slow),
        pytest.param("vgg16", 32, ["fc1", "relu1", "dropout1", "fc2", "relu2", "dropout2"], marks=pytest.mark.slow),
        ("mobilenet_v2", 32, ["dropout"]),
    ],
)
def test_the_original_head_gives_the_logits_of_torchvision(
    name: str, side: int, layers: list[str], tmp_path: Path
) -> None:
    original = torchvision.models.get_model(name, num_classes=3).eval()
    torch.save(original.state_dict(), tmp_path / "original.pth")
    network = getattr(models, name)(num_logits=3, image_size=(side, side), head="original").eval()
    assert [key for key, _ in network.head.named_children()] == ["pool", "flatten", *layers, "fc"]
    loaded = load_weights(network, str(tmp_path / "original.pth"))
    assert (loaded.head, loaded.missing, loaded.unexpected) == (True, (), ())
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        assert torch.equal(network(images), original(images))
    exported = library_state(network)
    assert exported.keys() == original.state_dict().keys()

    other = getattr(models, name)(num_logits=1, image_size=(side, side), head="original")
    assert load_weights(other, str(tmp_path / "original.pth")).missing == ("head.fc.weight", "head.fc.bias")
    other.freeze("head")
    assert len(other.frozen_stages) == len(other.stages)


@pytest.mark.slow
def test_weights_of_densenet_load_under_the_names_that_torchvision_published(tmp_path: Path) -> None:
    """The published file has keys of an old version, such as `denselayer1.norm.1.weight`."""
    original = randomized(torchvision.models.densenet121(num_classes=3))
    layer = re.compile(r"(denselayer\d+\.(?:norm|conv))(\d)")
    published = {layer.sub(r"\1.\2", key): tensor for key, tensor in original.state_dict().items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in published
    torch.save(published, tmp_path / "densenet.pth")
    network = models.densenet121(num_logits=3, image_size=(64, 64)).eval()
    assert load_weights(network, str(tmp_path / "densenet.pth")).missing == ()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network(images), original(images))


def test_the_dense_head_has_the_given_width_and_dropout() -> None:
    head = models.resnet18(num_logits=2, image_size=(64, 64), head="dense", head_units=32, head_dropout=0.125).head
    assert (head.fc1.in_features, head.fc1.out_features, head.fc2.out_features) == (512, 32, 2)
    assert head.dropout.p == 0.125
    assert isinstance(head.relu, nn.ReLU)


def test_new_linear_heads_start_near_uniform_probabilities() -> None:
    """torchvision's EfficientNet and timm's draw the weights of one logit from +-1."""
    for name in ("efficientnet_b0", "efficientnet_lite0"):
        fc = getattr(models, name)(num_logits=1, image_size=(64, 64)).head.fc
        assert fc.weight.abs().max() <= 1280**-0.5


@pytest.mark.parametrize(
    ("trainable", "frozen"),
    [("last:1", 4), ("last: 2", 3), ({"last": 2}, 3), ("last:5", 0), ({"last": 5}, 0), (["layer4", "head"], 4)],
)
def test_trainable_accepts_a_number_of_last_stages(trainable: str | dict[str, int], frozen: int) -> None:
    network = models.resnet18(num_logits=1, image_size=(64, 64))
    network.freeze(trainable)  # type: ignore[arg-type]
    assert network.frozen_stages == ("stem", "layer1", "layer2", "layer3", "layer4")[:frozen]
    assert all(p.requires_grad for p in network.head.parameters())


@pytest.mark.parametrize("trainable", ["last:6", {"last": 6}, "last:0"])
def test_more_stages_than_the_network_has_are_refused(trainable: str | dict[str, int]) -> None:
    network = models.resnet18(num_logits=1, image_size=(64, 64))
    with pytest.raises(UserError, match=r"resnet18 has 5 stages, which are stem, layer1, layer2, layer3, layer4; use"):
        network.freeze(trainable)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def inception() -> Network:
    torch.manual_seed(0)
    return models.inception_v3(num_logits=1, image_size=(299, 299))


@pytest.mark.slow
def test_the_auxiliary_head_adds_its_loss_in_training_only(inception: Network) -> None:
    network = copy.deepcopy(inception)
    assert network.auxiliary is not None
    assert summarize(network, (3, 299, 299)).parameters == count(network)
    images, targets = torch.randn(2, 3, 299, 299), torch.tensor([0, 1])
    loss = ClassificationLoss([1, 1])
    classifier = Classifier(network, loss, num_images={}, optimizer=torch.optim.Adam, schedule=lambda *_: [])  # type: ignore[arg-type]

    class Batch:
        pass

    batch = Batch()
    batch.images, batch.targets, batch.features_of = images, targets, None  # type: ignore[attr-defined]
    batch.positions = torch.arange(2)  # type: ignore[attr-defined]
    classifier._trainer = SimpleNamespace(accumulate_grad_batches=1)  # type: ignore[assignment]
    seen: list[Tensor] = []
    network.auxiliary.head.register_forward_hook(lambda module, inputs, output: seen.append(output))
    network.head.register_forward_hook(lambda module, inputs, output: seen.append(output))
    total = classifier.training_step(batch, 0)
    auxiliary_logits, logits = seen
    torch.testing.assert_close(total, loss(logits, targets) + 0.4 * loss(auxiliary_logits, targets))
    total.backward()
    assert network.auxiliary.head.fc.weight.grad.abs().sum() > 0  # type: ignore[union-attr]
    assert network.auxiliary.take_logits() is None
    network(images)  # its auxiliary logits are not used
    copy.deepcopy(network)
    seen.clear()
    classifier.eval()
    with torch.no_grad():
        classifier.validation_step(batch, 0)
    assert len(seen) == 1
    groups = parameter_groups(network, GroupOptions(lr=1.0), FineTuning(backbone_lr_factor=0.1))
    of_head = {id(p) for group in groups if group["name"].startswith("head") for p in group["params"]}
    assert of_head == {id(p) for part in (network.head, network.auxiliary) for p in part.parameters()}


@pytest.mark.slow
def test_the_auxiliary_head_trains_only_if_a_stage_before_it_trains(inception: Network) -> None:
    network = copy.deepcopy(inception)
    auxiliary = network.auxiliary
    assert auxiliary is not None
    for trainable, trains in (("head", False), ("last:3", False), ("last:4", True), (["stem"], True), ("all", True)):
        network.freeze(trainable)
        network.train()
        assert {p.requires_grad for p in auxiliary.parameters()} == {trains}
        assert {module.training for module in auxiliary.modules()} == {trains}
        network.eval()
        assert not auxiliary.training


@pytest.mark.slow
def test_inception_matches_torchvision_with_preset_and_auxiliary_weights(tmp_path: Path, inception: Network) -> None:
    from torchvision.models import Inception_V3_Weights, inception_v3

    original = randomized(inception_v3(weights=None, transform_input=True, init_weights=True))
    torch.save(original.state_dict(), tmp_path / "inception.pth")
    network = models.inception_v3(num_logits=1000, image_size=(299, 299)).eval()
    assert load_weights(network, str(tmp_path / "inception.pth")).missing == ()
    pixels = torch.rand(2, 3, 299, 299)
    preset, facts = Inception_V3_Weights.IMAGENET1K_V1.transforms(), network.pretrained["imagenet"]
    assert facts.size == (299, 299)
    theirs = (pixels - torch.tensor(preset.mean)[:, None, None]) / torch.tensor(preset.std)[:, None, None]
    ours = (pixels - torch.tensor(facts.mean)[:, None, None]) / torch.tensor(facts.std)[:, None, None]
    with torch.no_grad():
        torch.testing.assert_close(network(ours), original(theirs), rtol=1e-3, atol=1e-3)

    other = copy.deepcopy(inception)  # with one logit
    loaded = load_weights(other, str(tmp_path / "inception.pth"))
    ends = [f"{place}.fc.{kind}" for place in ("head", "auxiliary.head") for kind in ("weight", "bias")]
    assert sorted(loaded.missing) == sorted(ends)
    assert torch.equal(other.auxiliary.head.conv1.conv.weight, original.AuxLogits.conv1.conv.weight)  # type: ignore[union-attr]


@pytest.mark.slow
def test_images_too_small_for_inception_are_refused_with_advice() -> None:
    with pytest.raises(UserError, match=r"inception_v3 needs images of at least 75x75 pixels, got 64x64"):
        models.inception_v3(num_logits=1, image_size=(64, 64))
    with pytest.raises(UserError, match=r"model.auxiliary=false removes it\) needs images of at least 299x299"):
        models.inception_v3(num_logits=1, image_size=(150, 150))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("resnet27", "timm has no network 'resnet27': did you mean resnet26 or"),
        ("resnet26.bt_in2k", "timm has no network 'resnet26.bt_in2k': did you mean resnet26.bt_in1k"),
        ("zzz", r"timm has no network 'zzz'; timm.list_models\(\) lists them"),
    ],
)
def test_unknown_timm_networks_are_refused(name: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"model.name: .*{reason}"):
        models.timm(num_logits=1, image_size=(64, 64), name=name)


def test_parts_with_other_features_than_the_original_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of timm in the operations between the parts must be detected."""
    from timm.models.resnet import ResNet

    forward = ResNet.forward_features
    monkeypatch.setattr(ResNet, "forward_features", lambda self, x: forward(self, x) * 1.001)
    network = models.timm(num_logits=1, image_size=(64, 64), name="test_resnet").eval()
    assert list(network.stages) == ["body"]


def test_every_function_of_a_pretrained_network_is_tested() -> None:
    from opsin.models.weights import KINDS

    assert {case.name for case in BACKBONES if not case.in_timm} | {"timm", "efficientnet_lite0"} == set(
        KINDS["imagenet"]
    )
