"""The moving average of the weights in every precision, and the warning if a run is too short for it."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from opsin.commands.train import train
from opsin.config import compose, from_saved
from opsin.runs.directory import RunDirectory
from opsin.training.callbacks import EMA
from opsin.training.callbacks.base import EpochCallback
from opsin.training.callbacks.ema import fitting_decay
from opsin.training.lightning_trainer import make_trainer
from opsin.training.trainer import TrainerOptions


def said(caplog: pytest.LogCaptureFixture, steps: float, **options: float) -> str:
    caplog.clear()
    trainer = SimpleNamespace(estimated_stepping_batches=steps, is_global_zero=True)
    with caplog.at_level(logging.WARNING, "opsin"):
        EMA(**options).on_train_start(trainer, None)
    return caplog.text


def test_a_short_run_gets_a_warning_with_a_suitable_decay(caplog: pytest.LogCaptureFixture) -> None:
    text = said(caplog, 50)
    assert "95%" in text
    assert "A suitable value is callbacks.ema.decay=0.8" in text
    assert "decay=0.9955" in said(caplog, 2222)


def test_a_long_run_or_a_suitable_decay_gets_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert said(caplog, 5000) == ""
    assert said(caplog, float("inf")) == ""
    assert said(caplog, 50, decay=fitting_decay(50)) == ""


def test_the_warning_counts_updates_and_not_steps(caplog: pytest.LogCaptureFixture) -> None:
    assert "the 500 updates" in said(caplog, 5000, update_every_n_steps=10)


@pytest.mark.parametrize(("steps", "every", "decay"), [(20, 100, 0.999), (1, 2, 0.0), (99, 100, 0.5)])
def test_a_run_of_one_update_gets_a_warning_for_any_decay(
    steps: int, every: int, decay: float, caplog: pytest.LogCaptureFixture
) -> None:
    text = said(caplog, steps, decay=decay, update_every_n_steps=every)
    assert f"callbacks.ema.update_every_n_steps={every} is above the {steps} steps of this run" in text
    assert said(caplog, every, decay=0.0, update_every_n_steps=every) == ""


class Line(L.LightningModule):
    """A linear layer with a validation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 2)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.layer(batch).float().square().mean()
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.layer(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Weights(EpochCallback):
    """Record the trained weights after each step, and those of a validation."""

    def __init__(self) -> None:
        super().__init__()
        self.trained: list[Tensor] = []
        self.validated: list[Tensor] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        self.trained.append(pl_module.layer.weight.detach().clone())

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        self.validated.append(pl_module.layer.weight.detach().clone())

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        assert torch.equal(pl_module.layer.weight, self.trained[-1])


@pytest.mark.parametrize(
    ("precision", "kept"), [("32", torch.float32), ("bf16-true", torch.float32), ("64", torch.float64)]
)
def test_the_average_is_exact_in_every_precision(precision: Any, kept: torch.dtype, tmp_path: Path) -> None:
    ema, seen = EMA(decay=0.99), Weights()
    options = TrainerOptions(accelerator="cpu", precision=precision, max_epochs=3)
    trainer = make_trainer(options, callbacks=[ema, seen], loggers=[], folder=tmp_path)
    batches = list(torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0)))
    loaders = (torch.utils.data.DataLoader(part, batch_size=None) for part in (batches, batches[:1]))
    trainer.fit(Line(), *loaders)
    average = seen.trained[0].to(kept)
    for weight in seen.trained[1:]:
        average = average + (weight.to(kept) - average) * (1 - 0.99)
    assert ema._average_model is not None
    found = ema._average_model.module.layer.weight
    assert (found.dtype, len(seen.trained), len(seen.validated)) == (kept, 15, 3)
    torch.testing.assert_close(found.detach(), average, rtol=1e-6 if kept == torch.float32 else 1e-12, atol=0)
    assert torch.equal(seen.validated[-1], found.to(seen.validated[-1].dtype))


@pytest.mark.slow
@pytest.mark.parametrize("callbacks", ["ema", "no_pictures"])
@pytest.mark.parametrize("precision", ["bf16-true", "64"])
def test_a_resumed_run_is_bit_identical_in_every_precision(callbacks: str, precision: str, tmp_path: Path) -> None:
    words = (
        *("model=mlp", "augmentation=none", "trainer=cpu", f"trainer.precision={precision}", "logger=none"),
        *(f"callbacks={callbacks}", "callbacks.progress.bar=false", "report=false", "datamodule.train_fraction=0.2"),
        *("scheduler=constant", f"data_dir={tmp_path / 'data'}", f"output_dir={tmp_path / 'outputs'}"),
    )
    whole, cut = (tmp_path / "outputs" / name for name in ("whole", "cut"))
    train(compose([*words, "trainer.max_epochs=3"], whole))
    train(compose([*words, "trainer.max_epochs=1"], cut))
    train(from_saved(RunDirectory(cut), ["trainer.max_epochs=3"]))
    one, other = (torch.load(RunDirectory(path).last, weights_only=True) for path in (whole, cut))
    for content in (one, other):
        content["optimizer_states"] = [state["state"] for state in content["optimizer_states"]]
    for key in ("state_dict", "optimizer_states", *(["current_model_state"] if callbacks == "ema" else [])):
        torch.testing.assert_close(one[key], other[key], rtol=0, atol=0)
