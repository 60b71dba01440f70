"""The device and the precision of predictions are those that Lightning's trainer chooses."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from opsin.api.caller_state import TorchSettings
from opsin.inference.compute_device import compute_device
from opsin.training.lightning_trainer import make_trainer
from opsin.training.trainer import TrainerOptions


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore the settings of torch."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    with TorchSettings.current().applied():
        yield


def inside(context: Any) -> tuple[Any, ...]:
    """The state of torch in a context that affects results."""
    with context:
        autocast = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"), torch.is_autocast_cache_enabled()
        return (*autocast, torch.get_default_dtype())


@pytest.mark.filterwarnings("ignore:You passed `Trainer.accelerator='cpu', precision='16-mixed'")
@pytest.mark.parametrize("precision", ["auto", "32", "64", "bf16", "16", "bf16-true"])
def test_device_and_precision_are_those_of_lightning(precision: Any, tmp_path: Path) -> None:
    options = TrainerOptions(accelerator="cpu", precision=precision)
    ours, trainer = compute_device(options), make_trainer(options, callbacks=[], loggers=[], folder=tmp_path)
    assert ours.device == trainer.strategy.root_device
    assert ours.precision == trainer.precision
    plugin = trainer.strategy.precision_plugin
    before = inside(torch.no_grad())
    assert inside(ours.forward_context()) == inside(plugin.forward_context())
    assert inside(torch.no_grad()) == before
    networks = ours.convert(nn.Linear(2, 2)), plugin.convert_module(nn.Linear(2, 2))
    assert networks[0].weight.dtype == networks[1].weight.dtype


@pytest.mark.parametrize("deterministic", ["off", "warn", "strict"])
def test_deterministic_algorithms_are_those_of_lightning(deterministic: Any, tmp_path: Path) -> None:
    options = TrainerOptions(accelerator="cpu", deterministic=deterministic)
    found = []
    for apply in (compute_device, lambda chosen: make_trainer(chosen, callbacks=[], loggers=[], folder=tmp_path)):
        torch.use_deterministic_algorithms(False)
        apply(options)
        found.append((TorchSettings.current(), torch.backends.cudnn.benchmark))
    assert found[0] == found[1]
    assert found[0][0].deterministic == (deterministic != "off")
