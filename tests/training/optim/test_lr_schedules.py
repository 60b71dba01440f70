import math
import warnings

import pytest
import torch
from torch import nn

from opsin.training import optim

LR = 0.5


def make_optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=LR)


def rates(configs: list[dict], optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    """The rate that each step uses."""
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for config in configs:
            if config["interval"] == "step":
                config["scheduler"].step()
    return found


def test_constant_without_warmup_needs_no_scheduler() -> None:
    assert optim.constant(make_optimizer(), steps_per_epoch=10) == []


def test_warmup_rises_linearly_to_the_rate() -> None:
    optimizer = make_optimizer()
    found = rates(optim.constant(optimizer, steps_per_epoch=10, warmup_epochs=0.5), optimizer, 8)
    assert found[:5] == pytest.approx([LR * (0.01 + 0.99 * i / 5) for i in range(5)])
    assert found[5:] == pytest.approx([LR] * 3)


def test_step_equals_torch_step_lr() -> None:
    ours, theirs = make_optimizer(), make_optimizer()
    found = rates(optim.step(ours, steps_per_epoch=3, every_epochs=2, factor=0.1), ours, 20)
    scheduler = torch.optim.lr_scheduler.StepLR(theirs, step_size=6, gamma=0.1)
    assert found == pytest.approx(rates([{"scheduler": scheduler, "interval": "step"}], theirs, 20))


def test_cosine_ends_at_its_final_factor() -> None:
    optimizer = make_optimizer()
    configs = optim.cosine(optimizer, total_steps=20, steps_per_epoch=5, final_factor=0.1, warmup_epochs=1.0)
    found = rates(configs, optimizer, 21)
    assert found[5] == pytest.approx(LR)
    half = 0.1 + 0.9 * (1 + math.cos(math.pi * 5 / 15)) / 2
    assert found[10] == pytest.approx(LR * half)
    assert found[20] == pytest.approx(LR * 0.1)


@pytest.mark.parametrize("total_steps", [1, 2, 3, 4])
@pytest.mark.parametrize("warmup_fraction", [0.1, 0.25, 1 / 3, 0.5, 0.9])
def test_onecycle_rates_over_few_steps_are_positive_and_at_most_the_peak(
    total_steps: int, warmup_fraction: float
) -> None:
    optimizer = make_optimizer()
    found = rates(
        optim.onecycle(optimizer, total_steps=total_steps, warmup_fraction=warmup_fraction), optimizer, total_steps
    )
    assert len(found) == total_steps
    assert all(0 < rate <= LR for rate in found)


def test_onecycle_peaks_at_the_rate() -> None:
    optimizer = make_optimizer()
    found = rates(optim.onecycle(optimizer, total_steps=100, warmup_fraction=0.3), optimizer, 100)
    assert max(found) == pytest.approx(LR)
    assert found[0] == pytest.approx(LR / 25)
    assert found[-1] < LR / 1e4


@pytest.mark.parametrize("name", ["Adagrad", "Adadelta", "ASGD", "Rprop"])
def test_onecycle_sets_the_rates_of_an_optimizer_without_momentum_and_betas(name: str) -> None:
    optimizer = getattr(torch.optim, name)([nn.Parameter(torch.zeros(1))], lr=LR)
    sgd = make_optimizer()
    found = rates(optim.onecycle(optimizer, total_steps=10), optimizer, 10)
    assert found == rates(optim.onecycle(sgd, total_steps=10), sgd, 10)


@pytest.mark.parametrize(("name", "key"), [("SGD", "momentum"), ("RMSprop", "momentum"), ("Adam", "betas")])
def test_onecycle_cycles_momentum_or_the_first_beta(name: str, key: str) -> None:
    optimizer = getattr(torch.optim, name)([nn.Parameter(torch.zeros(1))], lr=LR)
    optim.onecycle(optimizer, total_steps=10)
    assert optimizer.param_groups[0][key] in (0.95, (0.95, 0.999))


@pytest.mark.parametrize("monitor", ["val/loss", "val/acc"])  # lower and higher is better
@pytest.mark.parametrize("start", [3.0, 0.0, -3.0])
@pytest.mark.parametrize("step", [0.0, -0.1, 0.1])
def test_plateau_lowers_the_rate_for_metrics_of_any_sign(monitor: str, start: float, step: float) -> None:
    optimizer = make_optimizer()
    (config,) = optim.plateau(optimizer, steps_per_epoch=1, monitor=monitor, factor=0.5, patience=1)
    for epoch in range(3):
        config["scheduler"].step(start + step * epoch)
    improves = step > 0 if monitor == "val/acc" else step < 0
    assert optimizer.param_groups[0]["lr"] == (LR if improves else LR * 0.5)


def test_plateau_lowers_the_rate_when_the_metric_stalls_and_keeps_it_after_warmup() -> None:
    optimizer = make_optimizer()
    configs = optim.plateau(optimizer, steps_per_epoch=2, monitor="val/loss", factor=0.5, patience=1, warmup_epochs=1.0)
    rates(configs, optimizer, 4)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(LR)
    plateau = next(config for config in configs if config["name"] == "plateau")
    assert plateau["monitor"] == "val/loss"
    for _ in range(3):  # the first is the best so far; two more without improvement
        plateau["scheduler"].step(1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rates(configs, optimizer, 3)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(LR / 2)
