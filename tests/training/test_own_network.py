"""Runs with a plain PyTorch module from a package of the user: frozen, cached, evaluated and explained."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import plain_networks
import pytest
import torch
from torch import nn

from opsin.commands.evaluate import main as evaluate
from opsin.commands.train import train
from opsin.config import compose
from opsin.config.target_lookup import Target
from opsin.errors import UserError
from opsin.inference.opened_network import open_network
from opsin.inference.trained_model import load_trained_model
from opsin.models import Network
from opsin.models.load_weights import OTHER_DIVISION
from opsin.runs.directory import RunDirectory
from opsin.training.module import load_network
from opsin.training.network_building import new_network

QUICK = ("datamodule.train_fraction=0.2", "trainer=cpu", "trainer.max_epochs=1", "logger=none", "callbacks=no_pictures")


@pytest.fixture
def package(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of the user that holds the plain networks."""
    (in_tmp / "own_nets").mkdir()
    shutil.copy(plain_networks.__file__, in_tmp / "own_nets" / "__init__.py")
    monkeypatch.syspath_prepend(str(in_tmp))
    monkeypatch.setenv("OPSIN_TARGETS", "own_nets")
    return "own_nets"


@pytest.mark.slow
def test_a_frozen_plain_module_is_cached_and_opened_again(package: str, capsys: pytest.CaptureFixture[str]) -> None:
    own = ("model=mlp", f"model._target_={package}.Functional", "~model.hidden", "+model.hidden=16")
    keys = [*own, *QUICK, "model.trainable=[fc1]", "datamodule.image_size=8"]
    composed = compose(keys, Path("outputs/run"))
    train(composed)
    result = composed.run.read_result()
    assert result.status == "finished"
    assert result.frozen is not None
    assert (result.frozen.stages, result.frozen.verified) == (("conv1", "conv2"), True)
    assert result.settings.feature_cache.startswith("conv2 of ")
    assert result.data is not None
    assert result.data.channels == 1  # the first layer of the module takes gray images
    assert evaluate(["outputs/run"]) == 0
    assert f"{result.metrics['test/acc']:.4f}"[:5] in capsys.readouterr().out
    assert load_trained_model("outputs/run").classes is not None


def test_a_wrong_number_of_outputs_ends_the_run_before_training(package: str) -> None:
    composed = compose([f"model._target_={package}.seven_outputs", *QUICK], Path("outputs/run"))
    with pytest.raises(UserError, match="seven_outputs has 7 outputs, but the data need 10"):
        train(composed)
    assert not composed.run.last.exists()


def unmatched_stages() -> Network:
    return Network("mine", {"stem": nn.Flatten()}, nn.Sequential(nn.Linear(64, 10)))


def test_a_network_of_named_stages_that_does_not_run_is_refused_when_it_is_built() -> None:
    plan: Any = SimpleNamespace(model=Target(unmatched_stages))
    with pytest.raises(UserError, match=r"unmatched_stages does not run on images of shape 1x9x9 .* gets 81 features"):
        new_network(plan, 10, 1, (9, 9))
    assert new_network(plan, 10, 1, (8, 8)).training


@pytest.mark.slow
@pytest.mark.parametrize("trainable", ["all", "head"])
def test_fixed_parameters_are_unchanged_and_announced(
    package: str, trainable: str, caplog: pytest.LogCaptureFixture
) -> None:
    own = ("model=mlp", f"model._target_={package}.Fixed", "~model.hidden", f"model.trainable={trainable}")
    composed = compose([*own, *QUICK, "datamodule.image_size=8"], Path("outputs/run"))
    with caplog.at_level("INFO", logger="opsin"):
        train(composed)
    assert "96 parameters in backbone never train, because the code of Fixed sets requires_grad=False" in caplog.text
    result = composed.run.read_result()
    assert (result.frozen.verified, result.parameters.frozen) == (True, 96 if trainable == "all" else 96 + 584)


@pytest.mark.slow
def test_a_network_that_is_fixed_as_a_whole_is_refused(package: str) -> None:
    own = ("model=mlp", f"model._target_={package}.all_fixed", "~model.hidden", "datamodule.image_size=8")
    with pytest.raises(UserError, match=r"selects no parameter to train.*code of all_fixed sets requires_grad=False"):
        train(compose([*own, *QUICK], Path("outputs/run")))


def test_a_run_of_an_earlier_division_gives_one_message(digits_run: RunDirectory, tmp_path: Path) -> None:
    run = RunDirectory(shutil.copytree(digits_run.path, tmp_path / "run"))
    network = open_network(run).network
    content = torch.load(run.best, weights_only=True)
    state = content["state_dict"]
    content["state_dict"] = {key.replace("head.fc.", "head.fc.0."): tensor for key, tensor in state.items()}
    torch.save(content, run.best)
    for load in (lambda: open_network(run).network, lambda: load_trained_model(str(run.path))):
        with pytest.raises(UserError, match=f"does not fit the head of cnn_gap: {OTHER_DIVISION}"):
            load()
    with pytest.raises(UserError, match=f"does not fit cnn_gap: {OTHER_DIVISION}"):
        load_network(network, run.best)
