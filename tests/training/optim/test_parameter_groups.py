import pytest
import torch
from torch import nn

from opsin.models.fine_tuning import FineTuning
from opsin.training.optim.parameter_groups import GroupOptions, parameter_groups


def network() -> nn.Module:
    model = nn.Module()
    model.stages = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    model.head = nn.Linear(4, 2)
    return model


def by_name(groups: list[dict]) -> dict[str, dict]:
    return {group["name"]: group for group in groups}


def test_norms_and_biases_do_not_decay_unless_asked() -> None:
    model = network()
    groups = by_name(parameter_groups(model, GroupOptions(lr=0.1, weight_decay=0.01), FineTuning()))
    conv, norm = model.stages
    assert [id(p) for p in groups["backbone/decay"]["params"]] == [id(conv.weight)]
    undecayed = {id(p) for p in groups["backbone/no_decay"]["params"]}
    assert undecayed == {id(conv.bias), id(norm.weight), id(norm.bias)}
    assert groups["backbone/no_decay"]["weight_decay"] == 0
    everything = by_name(
        parameter_groups(model, GroupOptions(lr=0.1, weight_decay=0.01, decay_norm_and_bias=True), FineTuning())
    )
    assert set(everything) == {"backbone/decay", "head/decay"}


def test_the_backbone_has_a_learning_rate_of_its_own() -> None:
    groups = parameter_groups(network(), GroupOptions(lr=0.1), FineTuning(backbone_lr_factor=0.1))
    assert {group["name"].split("/")[0]: group["lr"] for group in groups} == {"backbone": 0.1 * 0.1, "head": 0.1}


def test_frozen_parameters_are_in_no_group_and_all_others_in_exactly_one() -> None:
    model = network()
    model.stages[0].requires_grad_(False)
    grouped = [
        p for group in parameter_groups(model, GroupOptions(weight_decay=0.1), FineTuning()) for p in group["params"]
    ]
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(grouped) == len(trained)
    assert {id(p) for p in grouped} == {id(p) for p in trained}


def test_torch_optimizers_accept_the_groups() -> None:
    optimizer = torch.optim.AdamW(
        parameter_groups(network(), GroupOptions(lr=0.5, weight_decay=0.1), FineTuning()), lr=0.5
    )
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.1}


def three_stages() -> nn.Module:
    model = nn.Module()
    model.stages = nn.ModuleDict({name: nn.Linear(2, 2) for name in ("low", "middle", "high")})
    model.head = nn.Linear(2, 2)
    return model


def test_layer_decay_gives_every_stage_its_rate_and_the_head_comes_last() -> None:
    groups = parameter_groups(
        three_stages(), GroupOptions(lr=1.0, weight_decay=0.1), FineTuning(backbone_lr_factor=0.5, layer_decay=0.1)
    )
    parts = ("low", "middle", "high", "head")
    assert [group["name"] for group in groups] == [f"{part}/{kind}" for part in parts for kind in ("decay", "no_decay")]
    assert [group["lr"] for group in groups[::2]] == pytest.approx([0.0005, 0.005, 0.05, 1.0])
    assert [group["lr"] for group in groups[1::2]] == pytest.approx([0.0005, 0.005, 0.05, 1.0])


def test_stages_that_train_later_have_their_groups_from_the_start() -> None:
    model = three_stages()
    model.stages.requires_grad_(False)
    groups = by_name(parameter_groups(model, GroupOptions(), FineTuning(layer_decay=0.5), stages=["high"]))
    assert list(groups) == ["high/no_decay", "head/no_decay"]
    grouped = {
        id(p)
        for p in by_name(parameter_groups(model, GroupOptions(), FineTuning(), stages=["low", "high"]))[
            "backbone/no_decay"
        ]["params"]
    }
    assert grouped == {id(p) for name in ("low", "high") for p in model.stages[name].parameters()}
