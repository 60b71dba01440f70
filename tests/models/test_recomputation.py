"""Gradient checkpointing: bit-identical gradients and statistics, with fewer stored activations."""

from pathlib import Path

import pytest
import torch
from torch import nn

import opsin.models as models
from opsin.commands.train import train
from opsin.config import compose
from opsin.errors import UserError
from opsin.models import Network
from opsin.models.network import sequential
from opsin.runs.directory import RunDirectory
from opsin.training.trainer import TrainerOptions


def with_dropout() -> Network:
    torch.manual_seed(0)
    stages = {
        f"block{i}": sequential(
            conv=nn.Conv2d(3 if i == 1 else 8, 8, 3, padding=1),
            bn=nn.BatchNorm2d(8),
            relu=nn.ReLU(),
            drop=nn.Dropout(0.4),
        )
        for i in (1, 2, 3)
    }
    return Network("tiny", stages, sequential(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(8, 4)))


def small_resnet() -> Network:
    torch.manual_seed(0)
    return models.resnet18(num_logits=4, image_size=(32, 32))


def steps(network: Network, recompute: bool, frozen: list[str] | None = None) -> tuple[dict[str, torch.Tensor], int]:
    """Return tensors and gradients after two steps, and the bytes of activations kept in the first forward pass."""
    network.gradient_checkpointing = recompute
    if frozen:
        network.freeze(frozen)
    network.train()
    kept: dict[int, int] = {}
    bytes_kept = 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(1)
    for step in range(2):
        images = torch.randn(6, 3, 32, 32, generator=generator)
        torch.manual_seed(100 + step)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = nn.functional.cross_entropy(network(images), torch.arange(6) % 4)
        bytes_kept = bytes_kept or sum(kept.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    state = {**network.state_dict()}
    state |= {f"{name}.grad": p.grad for name, p in network.named_parameters() if p.grad is not None}
    return state, bytes_kept


@pytest.mark.slow
@pytest.mark.parametrize("make", [with_dropout, small_resnet])
@pytest.mark.parametrize("trainable", [None, 2])
def test_gradients_and_statistics_are_bit_identical(make, trainable: int | None) -> None:
    stages = None if trainable is None else list(make().stages)[-trainable:]
    (plain, much), (again, little) = (steps(make(), recompute, stages) for recompute in (False, True))
    assert plain.keys() == again.keys()
    assert any(name.endswith(".grad") for name in plain)
    for name, value in plain.items():
        assert torch.equal(value, again[name]), name
    batches = [value for name, value in again.items() if name.endswith("num_batches_tracked")]
    assert max(map(int, batches)) == 2
    assert little < much


def test_evaluation_and_frozen_stages_recompute_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr("opsin.models.network.recomputed", lambda stage, x: called.append(stage) or stage(x))
    network = with_dropout()
    network.gradient_checkpointing = True
    network.eval()(torch.zeros(2, 3, 8, 8))
    assert not called
    network.freeze(["block3"])
    network.train()(torch.zeros(2, 3, 8, 8))
    assert called == [network.stages["block3"]]
    with torch.no_grad():
        network(torch.zeros(2, 3, 8, 8))
    assert len(called) == 1


@pytest.mark.slow
def test_a_run_with_gradient_checkpointing_has_the_same_result(tmp_path: Path) -> None:
    results = []
    for recompute in ("true", "false"):
        run = RunDirectory(tmp_path / recompute)
        run.path.mkdir()
        words = [f"trainer.gradient_checkpointing={recompute}", "trainer.precision=32", "datamodule.train_fraction=0.2"]
        common = ["model=cnn_batchnorm", "trainer=cpu", "trainer.max_epochs=1", "logger=none", "report=false"]
        places = [f"data_dir={tmp_path / 'data'}", f"output_dir={tmp_path}", "callbacks.progress.bar=false"]
        train(compose([*common, *words, *places], run.path))
        results.append(run.read_result())
    assert results[0].metrics == results[1].metrics
    assert [result.settings.gradient_checkpointing for result in results] == [True, False]


def test_gradient_checkpointing_with_compilation_is_refused() -> None:
    with pytest.raises(UserError, match=r"gradient_checkpointing=true cannot be combined with trainer.compile=true"):
        TrainerOptions(gradient_checkpointing=True, compile=True)
