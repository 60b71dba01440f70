"""Exported weights load into plain torchvision and timm without renaming, and back into Opsin."""

import pytest
import timm
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

import opsin.models as models
from opsin.models import Network, convnext_tiny, load_weights, resnet18
from opsin.models.export_weights import library_state, save_weights
from opsin.models.plain_network import as_network

SIZE = (32, 32)
FROM_TORCHVISION = ["resnet18", "mobilenet_v2", "efficientnet_b0", "convnext_tiny"]
FROM_TIMM = ["test_resnet", "test_convnext", "test_efficientnet", "mobilenetv3_small_050"]


def randomized(network: Network) -> Network:
    """Return the network in evaluation mode, with statistics that differ from their initial values."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    return network.eval()


def check(network: Network, original: nn.Module, images: torch.Tensor, path) -> None:
    save_weights(library_state(network), path, "safetensors", {"classes": '["a"]'})
    original.load_state_dict(load_file(path), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(original.eval()(images), network(images), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", FROM_TORCHVISION)
def test_torchvision_loads_the_file_strictly(name: str, tmp_path) -> None:
    network = randomized(getattr(models, name)(num_logits=3, image_size=(64, 64)))
    original = torchvision.models.get_model(name, num_classes=3)
    check(network, original, torch.randn(2, 3, 64, 64), tmp_path / "it.safetensors")


@pytest.mark.parametrize("name", FROM_TIMM)
def test_timm_loads_the_file_strictly(name: str, tmp_path) -> None:
    network = randomized(models.timm(name=name, num_logits=3, image_size=(64, 64)))
    check(network, timm.create_model(name, num_classes=3), torch.randn(2, 3, 64, 64), tmp_path / "it.safetensors")


def test_timm_loads_a_transformer_of_the_size_of_the_run(tmp_path) -> None:
    network = randomized(models.timm(name="test_vit", num_logits=3, image_size=(64, 64)))
    original = timm.create_model("test_vit", num_classes=3, img_size=64)
    check(network, original, torch.randn(2, 3, 64, 64), tmp_path / "it.safetensors")


@pytest.mark.slow
def test_torchvision_loads_inception_with_its_auxiliary_head(tmp_path) -> None:
    network = randomized(models.inception_v3(num_logits=3, image_size=(299, 299)))
    original = torchvision.models.inception_v3(num_classes=3, init_weights=False)
    check(network, original, torch.randn(1, 3, 299, 299), tmp_path / "it.safetensors")


def test_a_state_dict_is_read_by_torch_and_by_opsin(tmp_path) -> None:
    taught, again = (resnet18(num_logits=3, image_size=SIZE, head="dense") for _ in range(2))
    save_weights(library_state(taught), tmp_path / "it.pt", "state_dict", {})
    missing = torchvision.models.resnet18(num_classes=3).load_state_dict(
        torch.load(tmp_path / "it.pt", weights_only=True), strict=False
    )
    assert missing.missing_keys == ["fc.weight", "fc.bias"]  # a dense head is none of torchvision's
    assert missing.unexpected_keys == ["head.fc1.weight", "head.fc1.bias", "head.fc2.weight", "head.fc2.bias"]
    assert load_weights(again, str(tmp_path / "it.pt")).head
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in taught.state_dict().items())


def test_networks_of_opsin_keep_their_names() -> None:
    network = models.cnn_gap(num_logits=3, in_channels=1, image_size=SIZE)
    assert library_state(network).keys() == network.state_dict().keys()


def test_a_backbone_in_half_precision_loads_into_another_head(tmp_path) -> None:
    taught, pupil = resnet18(num_logits=3, image_size=SIZE), resnet18(num_logits=5, image_size=SIZE)
    state = library_state(taught, backbone=True, half=True)
    assert len(state) == len(taught.stages.state_dict())
    assert not any(key.startswith("fc.") for key in state)
    save_weights(state, tmp_path / "out" / "it.safetensors", "safetensors", {"seed": "1"})
    with safe_open(tmp_path / "out" / "it.safetensors", "pt") as file:
        assert file.metadata() == {"seed": "1"}
    loaded = load_weights(pupil, str(tmp_path / "out" / "it.safetensors"))
    assert not loaded.head
    for mine, its in zip(pupil.stages.parameters(), taught.stages.parameters(), strict=True):
        assert torch.equal(mine, its.half().float())
        assert mine.dtype == torch.float32


class Tied(nn.Module):
    """A network with a weight that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.third.weight = self.second.weight
        self.fc = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in (self.first, self.second, self.third):
            x = layer(x).relu()
        return self.fc(x.mean((2, 3)))


def test_layers_that_share_tensors_are_exported_and_loaded(tmp_path) -> None:
    taught, again = (as_network("tied", Tied(), num_logits=2, in_channels=3, image_size=SIZE).eval() for _ in range(2))
    images = torch.randn(2, 3, *SIZE)
    check(taught, Tied(), images, tmp_path / "it.safetensors")
    assert load_weights(again, str(tmp_path / "it.safetensors")).head
    assert torch.equal(again(images), taught(images))


def test_a_failed_export_keeps_the_old_file(tmp_path, monkeypatch) -> None:
    def fail(descriptor):
        raise OSError(28, "No space left on device")

    (tmp_path / "it.safetensors").write_text("old")
    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        save_weights(
            library_state(resnet18(num_logits=3, image_size=SIZE)), tmp_path / "it.safetensors", "safetensors", {}
        )
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("it.safetensors", "old")]


@pytest.mark.slow
def test_the_neck_is_exported_and_values_beyond_half_precision_stay_float32(tmp_path) -> None:
    taught, pupil = (convnext_tiny(num_logits=logits, image_size=SIZE) for logits in (3, 5))
    with torch.no_grad():
        taught.head.norm.weight.fill_(1e5)
    save_weights(library_state(taught, backbone=True, half=True), tmp_path / "it.safetensors", "safetensors", {})
    load_weights(pupil, str(tmp_path / "it.safetensors"))
    assert torch.equal(pupil.head.norm.weight, taught.head.norm.weight)


class Wrapping(nn.Module):
    """A user's network with all its layers under one name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.ReLU())
        self.name = name
        self.add_module(name, nn.ModuleDict({"first": body, "last": nn.Linear(6, 3)}))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        layers = getattr(self, self.name)
        return layers["last"](layers["first"](images).mean((2, 3)))


def wrapping(name: str, seed: int) -> Network:
    torch.manual_seed(seed)
    return as_network("mine", Wrapping(name), num_logits=3, in_channels=1, image_size=(16, 16))


FORMS = {
    "exported": lambda network: library_state(network),
    "checkpoint": lambda network: {f"network.{key}": tensor for key, tensor in network.state_dict().items()},
    "compiled": lambda network: {f"network._orig_mod.{key}": tensor for key, tensor in network.state_dict().items()},
    "DDP": lambda network: {f"module.{key}": tensor for key, tensor in library_state(network).items()},
    "Lightning": lambda network: {f"network.{key}": tensor for key, tensor in library_state(network).items()},
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["network", "module", "_orig_mod", "stages", "head", "body"])
def test_names_in_a_users_network_may_be_those_of_wrappers(name: str, form: str, tmp_path) -> None:
    taught, new = wrapping(name, 1), wrapping(name, 2)
    save_weights(FORMS[form](taught), tmp_path / "it.pt", "state_dict", {})
    loaded = load_weights(new, str(tmp_path / "it.pt"))
    assert (loaded.head, loaded.missing, loaded.unexpected) == (True, (), ())
    assert all(torch.equal(tensor, taught.state_dict()[key]) for key, tensor in new.state_dict().items())
