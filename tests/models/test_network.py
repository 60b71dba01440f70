"""The interface of all networks."""

import io
import subprocess
import sys

import pytest
import torch
from backbone_cases import BACKBONES
from network_cases import CASES, Case, build
from torch import Tensor, nn

import opsin.models as models
from opsin.errors import UserError
from opsin.models import Network, summarize
from opsin.models.scratch.strided_cnn import HalvingConv

every_network = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def trial(case: Case, **options: object) -> tuple[Network, Tensor]:
    """Return a seeded network and a batch of four small images."""
    torch.manual_seed(0)
    network = build(case, image_size=(case.trial, case.trial), **options)  # type: ignore[arg-type]
    return network, torch.randn(4, case.in_channels, case.trial, case.trial)


def test_the_cases_are_all_network_functions() -> None:
    functions = {name for name in models.__all__ if name.islower() and hasattr(models, name)}
    functions -= {"load_weights", "summarize", "summarize_layers", "summary_table", "summary_text", "layers_text"}
    functions -= {"weights_facts"}
    backbones = {"timm" if case.in_timm else case.name for case in BACKBONES}
    assert functions == {case.name for case in CASES} | backbones


@every_network
def test_stages_run_in_order_and_the_head_returns_the_logits(case: Case) -> None:
    network, images = trial(case)
    network.eval()
    assert tuple(network.stages) == case.stages
    x = images
    for name in case.stages:
        x = network.stages[name](x)
    assert torch.equal(network.forward_features(images), x)
    assert torch.equal(network(images), network.head(x))
    assert set(dict(network.named_children())) == {"stages", "head"}


@pytest.mark.slow
@every_network
@pytest.mark.parametrize("num_logits", [1, 2, 10])
def test_adapts_to_channels_and_classes(case: Case, num_logits: int) -> None:
    for channels in (3,) if case.rgb_only else (1, 3):
        network = build(case, num_logits=num_logits, in_channels=channels, image_size=(case.trial, case.trial + 5))
        assert network(torch.zeros(2, channels, case.trial, case.trial + 5)).shape == (2, num_logits)


@pytest.mark.slow
@every_network
@pytest.mark.parametrize("trainable", ["head", "last stage", "first stage", "all"])
def test_frozen_stages_stay_bit_equal_through_training(case: Case, trainable: str) -> None:
    network, images = trial(case)
    chosen = {"last stage": [case.stages[-1]], "first stage": [case.stages[0]]}.get(trainable, trainable)
    network.freeze(chosen)
    wrapper = nn.Sequential(network)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        wrapper.eval()
        wrapper.train()
        network(images).square().sum().backward()
        optimizer.step()
    frozen = tuple(f"stages.{name}." for name in network.frozen_stages)
    for key, value in network.state_dict().items():
        if key.startswith(frozen or ("none",)):
            assert torch.equal(value, before[key]), f"{key} is frozen and changed"
        elif value.abs().sum() > 0 and value.numel() > 1:
            assert not torch.equal(value, before[key]), f"{key} trains and did not change"
    for name, stage in network.stages.items():
        training = name not in network.frozen_stages
        assert all(module.training == training for module in stage.modules())
    assert network.head.training


def test_freezing_again_replaces_the_earlier_choice_and_keeps_eval_mode() -> None:
    network = build(CASES[2])
    network.eval().freeze("head")
    assert network.frozen_stages == ("block1", "block2", "block3")
    assert not network.head.training
    network.train()
    network.freeze(["block2", "head"])
    assert network.frozen_stages == ("block1", "block3")
    assert network.stages["block2"].training
    network.freeze("all")
    assert network.frozen_stages == ()
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(module.training for module in network.modules())


@every_network
def test_frozen_stages_record_no_graph_but_pass_gradients_to_images(case: Case) -> None:
    network, images = trial(case)
    network.freeze("head")
    network.train()
    assert not network.forward_features(images).requires_grad
    images.requires_grad_()
    network(images).square().sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert all(p.grad is None for stage in network.stages.values() for p in stage.parameters())


@every_network
def test_activations_are_not_overwritten_after_hooks(case: Case) -> None:
    network, images = trial(case)
    network.eval()
    seen: list[tuple[str, Tensor, Tensor]] = []
    for name, module in network.named_modules():
        module.register_forward_hook(
            lambda module, inputs, output, name=name: seen.append((name, output, output.clone()))
        )
    with torch.no_grad():
        network(images)
    assert len(seen) > len(case.stages)
    changed = [name for name, output, copy in seen if not torch.equal(output, copy)]
    # torchvision's residual blocks add their shortcut into the last BatchNorm's output, in their own code.
    assert [name for name in changed if not (case.name == "resnet18" and name.endswith(".bn2"))] == []


@pytest.mark.slow
@every_network
def test_state_dict_loads_with_weights_only(case: Case) -> None:
    network, images = trial(case)
    network(images)  # moves BatchNorm statistics
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    other = build(case, image_size=(case.trial, case.trial))
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(network.eval()(images), other.eval()(images))


@pytest.mark.slow
@every_network
def test_trains_in_channels_last_and_bfloat16(case: Case) -> None:
    network, images = trial(case)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(images.to(memory_format=torch.channels_last))
    logits.float().square().sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_a_one_pixel_feature_map_pools_correctly_in_bfloat16() -> None:
    torch.manual_seed(0)
    conv, pixel = HalvingConv(64, 32), torch.randn(4, 64, 1, 1)
    expected = torch.nn.functional.conv2d(pixel, conv.weight, conv.bias, 2, 1)
    torch.testing.assert_close(conv(pixel), expected)
    expected.square().sum().backward()
    right = conv.weight.grad
    for _ in range(20):
        rubbish = [torch.full((50_000,), float("nan")) for _ in range(20)]
        del rubbish  # what torch does not write, it leaves like this
        conv.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            conv(pixel).float().square().sum().backward()
        torch.testing.assert_close(conv.weight.grad, right, rtol=0.05, atol=0.1)


@every_network
def test_parameter_counts_match_the_lectures(case: Case) -> None:
    network = build(case)
    assert sum(parameter.numel() for parameter in network.parameters()) == case.parameters
    with torch.no_grad():
        logits = network.eval()(torch.zeros(1, case.in_channels, case.side, case.side))
    assert logits.shape == (1, case.num_logits)


def test_a_dense_layer_on_a_photograph_has_150_million_weights() -> None:
    with torch.device("meta"):
        network = models.mlp(num_logits=10, in_channels=3, image_size=(224, 224), hidden=1000)
    assert sum(parameter.numel() for parameter in network.parameters()) == 150_539_010


def test_the_backbone_parameter_count() -> None:
    network = models.cnn_gap(num_logits=10, in_channels=1, image_size=(28, 28))
    assert sum(parameter.numel() for parameter in network.stages.parameters()) == 55_744


@pytest.mark.slow
@every_network
def test_the_smallest_images_work_and_smaller_ones_are_refused(case: Case) -> None:
    network = build(case, image_size=(case.smallest, case.smallest))
    images = torch.zeros(2, case.in_channels, case.smallest, case.smallest)
    assert network.eval()(images).shape == (2, case.num_logits)
    if case.smallest == 1:
        return
    with pytest.raises(RuntimeError):
        network(images[:, :, :-1, :-1])
    small = case.smallest - 1
    for size in ((small, small), (small, 100), (100, small)):
        with pytest.raises(UserError) as error:
            build(case, image_size=size)
        assert str(error.value) == (
            f"{case.name} needs images of at least {case.smallest}x{case.smallest} pixels, "
            f"got {size[0]}x{size[1]}: set datamodule.image_size={case.smallest} or more"
        )


@pytest.mark.parametrize(
    ("trainable", "message"),
    [
        (["layer3", "blok2"], "model.trainable: cnn_gap has no stage 'layer3'. Its stages are block1, block2"),
        (["block4"], "cnn_gap has no stage 'block4': did you mean block"),
        ("block3", "model.trainable='block3' is neither `all`, `head` nor `last:N`; give stages as a list"),
    ],
)
def test_unknown_stages_are_refused(trainable: str | list[str], message: str) -> None:
    network = build(CASES[2])
    with pytest.raises(UserError) as error:
        network.freeze(trainable)
    assert message in str(error.value)
    assert network.frozen_stages == ()


@pytest.mark.parametrize("name", ["simple_cnn", "cnn_deep", "cats_dogs_cnn", "strided_cats_dogs"])
def test_dropout_can_be_set(name: str) -> None:
    case = next(case for case in CASES if case.name == name)
    rates = {m.p for m in build(case, dropout=0.125).modules() if isinstance(m, nn.Dropout)}
    assert 0.125 in rates


def test_dropout_is_where_the_lectures_have_it() -> None:
    network = models.strided_cats_dogs(num_logits=2, in_channels=3, image_size=(128, 128))
    dropouts = {name: m.p for name, m in network.named_modules() if isinstance(m, nn.Dropout)}
    assert dropouts == {"stages.block4.dropout": 0.5}
    deep = models.cnn_deep(num_logits=10, in_channels=3, image_size=(32, 32))
    assert [m.p for m in deep.modules() if isinstance(m, nn.Dropout)] == [0.25, 0.25, 0.25, 0.5]


def test_strided_networks_average_the_last_map_of_larger_images() -> None:
    case = next(case for case in CASES if case.name == "strided_cnn")
    network = build(case, image_size=(128, 128)).eval()
    images = torch.randn(2, 1, 128, 128)
    maps = network.head[:2](network.forward_features(images))  # type: ignore[index]
    assert maps.shape == (2, 10, 2, 2)
    torch.testing.assert_close(network(images), maps.mean((2, 3)))
    assert summarize(network, (1, 28, 28)).rows[-1].output_shape == (10,)


@pytest.mark.slow
def test_importing_the_models_imports_neither_torchvision_nor_timm() -> None:
    code = "import sys, opsin.models; sys.exit(bool({'torchvision', 'timm', 'lightning'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
