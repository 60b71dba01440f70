"""A resumed run has the options of the config, except those that its schedule sets at every step."""

from typing import Any

import pytest
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

from opsin.training.optim.config_values import apply_config, group_options, lengths, mark_configured

CYCLES = {
    "OneCycleLR": lambda optimizer: OneCycleLR(optimizer, max_lr=0.1, total_steps=20),
    "CyclicLR": lambda optimizer: CyclicLR(optimizer, 0.01, 0.1, step_size_up=5),
    "CyclicLR of rates": lambda optimizer: CyclicLR(optimizer, 0.01, 0.1, step_size_up=5, cycle_momentum=False),
}


def made(kind: type[Optimizer], cycle: str) -> tuple[Optimizer, Any, list[dict[str, Any]]]:
    optimizer = kind([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    mark_configured(optimizer)
    scheduler = CYCLES[cycle](optimizer)
    return optimizer, scheduler, group_options(optimizer)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("cycle", CYCLES)
def test_a_resumed_cycle_keeps_its_momentum(kind: type[Optimizer], cycle: str) -> None:
    optimizer, scheduler, _ = made(kind, cycle)
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    resumed, restored, configured = made(kind, cycle)
    resumed.load_state_dict(optimizer.state_dict())
    restored.load_state_dict(scheduler.state_dict())
    apply_config(resumed, [restored], configured, [{}])
    assert group_options(resumed) == group_options(optimizer)


def test_an_option_that_no_schedule_sets_is_that_of_the_config() -> None:
    optimizer, scheduler, configured = made(torch.optim.SGD, "CyclicLR of rates")
    apply_config(optimizer, [scheduler], [{**configured[0], "momentum": 0.5}], [{}])
    assert optimizer.param_groups[0]["momentum"] == 0.5


@pytest.mark.parametrize("kind", [OneCycleLR, type("Own", (OneCycleLR,), {})])
def test_a_resumed_cycle_has_the_length_of_its_run(kind: type[OneCycleLR]) -> None:
    def after(steps: int, optimizer: Optimizer, scheduler: Any) -> list[float]:
        for _ in range(steps):
            optimizer.step()
            scheduler.step()
        return [optimizer.param_groups[0][key] for key in ("lr", "momentum")]

    def run(total: int) -> tuple[Optimizer, Any]:
        optimizer, _, _ = made(torch.optim.SGD, "OneCycleLR")
        return optimizer, kind(optimizer, max_lr=0.1, total_steps=total)

    (short, finished), (whole, unbroken), (longer, scheduler) = run(6), run(12), run(12)
    after(5, short, finished)
    configured, planned = group_options(longer), lengths([scheduler])
    longer.load_state_dict(short.state_dict())
    scheduler.load_state_dict(finished.state_dict())
    apply_config(longer, [scheduler], configured, planned)
    assert after(0, longer, scheduler) == pytest.approx(after(5, whole, unbroken))
    assert after(6, longer, scheduler) == pytest.approx(after(6, whole, unbroken))
