"""`lr` in metrics.csv is the learning rate that the schedule has reached."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from small_fit import Linear, fit
from torch.optim.lr_scheduler import LambdaLR

from opsin.runs.directory import RunDirectory
from opsin.runs.metrics_csv import read_epochs
from opsin.training.callbacks import MetricsCSV
from opsin.training.validation_schedule import ValidationSchedule

LR = 0.0625


class Falling(Linear):
    """A linear layer whose learning rate halves at every `interval`; it records the rate of every step."""

    def __init__(self, interval: str) -> None:
        torch.manual_seed(0)
        super().__init__()
        self.interval = interval
        self.used: dict[int, float] = {}

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.used[self.trainer.global_step + 1] = optimizer.param_groups[-1]["lr"]

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=LR)
        schedule = LambdaLR(optimizer, lambda done: 0.5**done)
        return [optimizer], [{"scheduler": schedule, "interval": self.interval}]


def run_of(folder: Path, module: Falling, *others: L.Callback, resume: bool = False, **options: Any) -> RunDirectory:
    """Train epochs of four batches."""
    run, file = RunDirectory(folder), folder / "last.ckpt"
    callbacks, chosen = (*others, MetricsCSV(run)), {"max_epochs": 3, **options}
    fit(folder, module, *callbacks, batches=4, checkpoint=file if resume else None, **chosen).save_checkpoint(file)
    return run


@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize("accumulated", [1, 3])
def test_each_row_has_the_rate_of_the_next_step(interval: str, accumulated: int, tmp_path: Path) -> None:
    module = Falling(interval)
    rows = read_epochs(run_of(tmp_path, module, accumulate_grad_batches=accumulated).metrics)
    assert [row.epoch for row in rows] == [1, 2, 3]
    assert [row.get("lr") for row in rows[:-1]] == [module.used[row.step + 1] for row in rows[:-1]]
    assert rows[-1].get("lr") == LR * 0.5 ** (3 if interval == "epoch" else rows[-1].step)


def test_a_validation_within_an_epoch_has_the_rate_of_the_next_step(tmp_path: Path) -> None:
    module = Falling("step")
    rows = read_epochs(run_of(tmp_path, module, ValidationSchedule(2), max_epochs=2).metrics)
    assert [(row.step, row.get("lr")) for row in rows] == [(step, LR * 0.5**step) for step in (2, 4, 6, 8)]


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_a_resumed_run_has_the_table_of_an_uninterrupted_one(interval: str, tmp_path: Path) -> None:
    whole = run_of(tmp_path / "whole", Falling(interval))
    run_of(tmp_path / "cut", Falling(interval), max_epochs=1)
    cut = run_of(tmp_path / "cut", Falling(interval), resume=True)
    assert cut.metrics.read_text() == whole.metrics.read_text()
