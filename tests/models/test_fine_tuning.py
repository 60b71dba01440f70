"""Freeze schedules, computed from the config before training."""

import pytest

from opsin.config import compose
from opsin.errors import UserError
from opsin.models import Network, mini_resnet, resnet18
from opsin.models.fine_tuning import FineTuning, Phase
from opsin.training import build
from opsin.training.plan import make_plan

STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")


@pytest.fixture(scope="module")
def network() -> Network:
    return resnet18(num_logits=2, image_size=(32, 32))


def test_without_phases_the_trainable_stages_never_change(network: Network) -> None:
    schedule = FineTuning(trainable=["layer4"]).freeze_schedule(network, 10)
    assert [(phase.epoch, phase.trainable) for phase in schedule.phases] == [(0, ["layer4"])]
    assert schedule.at(9) is schedule.at(0)
    assert schedule.never_trained == ("stem", "layer1", "layer2", "layer3")
    assert FineTuning().freeze_schedule(network, 10).never_trained == ()
    assert FineTuning(trainable="head").freeze_schedule(network).never_trained == STAGES


def test_each_phase_lists_its_trainable_stages(network: Network) -> None:
    later = [Phase(5, ["layer4", "layer3"], 0.01), Phase(8, ["layer4"])]
    schedule = FineTuning(trainable="head", phases=later).freeze_schedule(network, 10)
    trained = [schedule.at(epoch).trainable for epoch in (0, 4, 5, 7, 8, 9)]
    assert trained == [[], [], ["layer3", "layer4"], ["layer3", "layer4"], ["layer4"], ["layer4"]]
    assert [schedule.at(epoch).lr_factor for epoch in (4, 5, 8)] == [1.0, 0.01, 1.0]
    assert schedule.never_trained == ("stem", "layer1", "layer2")
    assert schedule.ever_trained == ("layer3", "layer4")
    assert schedule.untouched(4) == STAGES


def test_gradual_unfreezing_starts_at_the_last_stage(network: Network) -> None:
    schedule = FineTuning(unfreeze_every=2).freeze_schedule(network, 20)
    counts = [len(schedule.at(epoch).trainable) for epoch in range(13)]
    assert counts == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5]
    assert schedule.at(2).trainable == ["layer4"]
    assert schedule.at(5).trainable == ["layer3", "layer4"]
    assert schedule.never_trained == ()
    begun = FineTuning(unfreeze_every=3, trainable=["layer4", "layer2"]).freeze_schedule(network)
    assert [phase.trainable for phase in begun.phases][:2] == [["layer2", "layer4"], ["layer2", "layer3", "layer4"]]
    assert len(begun.phases) == 4


def test_stages_after_the_end_of_a_short_run_never_train_but_have_parameter_groups(network: Network) -> None:
    schedule = FineTuning(unfreeze_every=2).freeze_schedule(network, max_epochs=5)
    assert schedule.never_trained == ("stem", "layer1", "layer2")
    assert schedule.ever_trained == STAGES  # the run may be extended


def test_apply_freezes_the_stages_of_the_first_phase(network: Network) -> None:
    FineTuning(unfreeze_every=1).apply(network)
    assert network.frozen_stages == STAGES
    FineTuning(trainable=["layer1"], phases=[Phase(1, "all")]).apply(network)
    assert network.frozen_stages == ("stem", "layer2", "layer3", "layer4")


def test_unknown_stages_are_named_with_their_config_key(network: Network) -> None:
    phases = [Phase(1, ["layer4"]), Phase(2, ["layer5"])]
    with pytest.raises(UserError, match=r"model\.phases\[1\]\.trainable: resnet18 has no stage 'layer5': did you mean"):
        FineTuning(phases=phases).freeze_schedule(network)


def refusal(*words: str) -> str:
    with pytest.raises(UserError) as caught:
        make_plan(compose(words))
    return str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "part"),
    [
        (
            ["model.phases=[{epoch: 2, trainable: all}]", "model.unfreeze_every=1"],
            "model.phases and model.unfreeze_every exclude each other",
        ),
        (
            ["model.phases=[{epoch: 2, trainable: all}, {epoch: 2, trainable: head}]"],
            "the epochs of model.phases must increase, got [2, 2]",
        ),
        (
            ["model.phases=[{epoch: 5, trainable: all}]", "trainer.max_epochs=5"],
            "model.phases: the phase at epoch 5 never starts, because trainer.max_epochs=5",
        ),
        (
            ["model.unfreeze_every=7", "trainer.max_epochs=6"],
            "the phase at epoch 7 never starts, because trainer.max_epochs=6",
        ),
        (
            ["model.phases=[{epoch: 5, trainable: all, lr_facter: 0.1}]"],
            "model.phases[0].lr_facter is not known: did you mean lr_factor?  [set on the command line",
        ),
        (["model.phases=[{epoch: 5, trainable: all}, {epoch: 6}]"], "model.phases[1].trainable is missing"),
        (["model.phases=[{epoch: 0, trainable: all}]"], "model.phases[0].epoch should be greater than or equal to 1"),
        (
            ["model.phases=[{epoch: 5, trainable: al}]"],
            "model.phases[0].trainable should be `all`, `head`, `last:N` or a list of stages, not 'al'",
        ),
        (["model.phases=[{epoch: 5, trainable: all, lr_factor: 0}]"], "phases[0].lr_factor should be greater than 0"),
        (["model.phases={epoch: 5, trainable: all}"], "model.phases should be a valid array"),
        (["model.layer_decay=1.5"], "model.layer_decay should be less than or equal to 1"),
        (["+optimizer.layer_decay=0.5"], "did you mean model.layer_decay?"),
    ],
)
def test_errors_are_raised_before_loading(words: list[str], part: str) -> None:
    assert part in refusal(*words)


def test_the_freeze_schedule_of_a_config() -> None:
    words = ("model=mini_resnet", "model.unfreeze_every=4", "trainer.max_epochs=9")
    plan = make_plan(compose(words))
    network = mini_resnet(num_logits=2, in_channels=1, image_size=(32, 32))
    assert build.freeze_schedule(plan, network).never_trained == ("stem", "layer1")
