"""Learning-rate schedules: each function takes an optimizer and returns scheduler configs of Lightning.

All schedules except `plateau` are functions of the number of optimizer steps. During `warmup_epochs` the rate rises
linearly from a hundredth of its value (Goyal et al., arXiv:1706.02677, section 2.2); fractions of an epoch are allowed.
"""

import logging
import math
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LinearLR, OneCycleLR, ReduceLROnPlateau

from opsin.runs.metric_registry import mode

log = logging.getLogger(__name__)

Epochs = Annotated[float, Field(ge=0)]
WARMUP_START = 0.01


def constant(optimizer: Optimizer, *, steps_per_epoch: int, warmup_epochs: Epochs = 0.0) -> list[dict[str, Any]]:
    """Keep the rate constant.

    Args:
        optimizer: The optimizer.
        steps_per_epoch: Optimizer steps of an epoch.
        warmup_epochs: Epochs in which the rate rises linearly; fractions are allowed.
    """
    if warmup_epochs == 0:
        return []
    return _by_step(optimizer, lambda _: 1.0, round(warmup_epochs * steps_per_epoch))


def step(
    optimizer: Optimizer,
    *,
    steps_per_epoch: int,
    every_epochs: Annotated[int, Field(ge=1)] = 5,
    factor: Annotated[float, Field(gt=0, le=1)] = 0.1,
    warmup_epochs: Epochs = 0.0,
) -> list[dict[str, Any]]:
    """Multiply the rate by `factor` after every `every_epochs` epochs (torch's StepLR).

    Args:
        optimizer: The optimizer.
        steps_per_epoch: Optimizer steps of an epoch.
        every_epochs: Epochs between two reductions.
        factor: Factor of each reduction.
        warmup_epochs: Epochs in which the rate rises linearly; fractions are allowed.
    """
    period = every_epochs * steps_per_epoch
    return _by_step(optimizer, lambda done: factor ** (done // period), round(warmup_epochs * steps_per_epoch))


def cosine(
    optimizer: Optimizer,
    *,
    total_steps: int,
    steps_per_epoch: int,
    final_factor: Annotated[float, Field(ge=0, le=1)] = 0.0,
    warmup_epochs: Epochs = 0.0,
) -> list[dict[str, Any]]:
    """Decrease along half a cosine toward `final_factor` of the rate (arXiv:1608.03983, no restarts).

    The rate of the last step is slightly higher: the end of the curve lies after it.

    Args:
        optimizer: The optimizer.
        total_steps: Optimizer steps of the run.
        steps_per_epoch: Optimizer steps of an epoch.
        final_factor: Factor of the rate at the end of the curve.
        warmup_epochs: Epochs in which the rate rises linearly; fractions are allowed.
    """
    warmup = round(warmup_epochs * steps_per_epoch)

    def factor(done: int) -> float:
        progress = min(1.0, max(0, done - warmup) / max(1, total_steps - warmup))
        return final_factor + (1 - final_factor) * (1 + math.cos(math.pi * progress)) / 2

    return _by_step(optimizer, factor, warmup)


def onecycle(
    optimizer: Optimizer,
    *,
    total_steps: int,
    warmup_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.3,
    initial_divisor: Annotated[float, Field(ge=1)] = 25.0,
    final_divisor: Annotated[float, Field(ge=1)] = 1e4,
) -> list[dict[str, Any]]:
    """Rise to the rate over `warmup_fraction` of all steps, then anneal (torch's OneCycleLR, arXiv:1708.07120).

    A run whose warm-up has at most one step starts at the peak, with a warning, because torch divides by the length
    of the warm-up. The momentum, or the first of the betas, falls while the rate rises; an optimizer that has neither
    gets the rates alone.

    Args:
        optimizer: The optimizer.
        total_steps: Optimizer steps of the run.
        warmup_fraction: Fraction of all steps in which the rate rises.
        initial_divisor: The first rate is the highest rate divided by it.
        final_divisor: The last rate is the first rate divided by it.
    """
    if warmup_fraction * total_steps <= 1:
        log.warning("scheduler=onecycle: %d steps are too few for a warm-up: the learning rate only falls", total_steps)
        warmup_fraction = 0.0
    scheduler = OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=total_steps,
        pct_start=warmup_fraction,
        cycle_momentum=not {"momentum", "betas"}.isdisjoint(optimizer.defaults),
        div_factor=initial_divisor,
        final_div_factor=final_divisor,
    )
    return [{"scheduler": scheduler, "interval": "step"}]


class _Plateau(ReduceLROnPlateau):
    """A plateau schedule for metrics of any sign, which keeps the options of the config when a run is resumed."""

    def _is_better(self, a: float, best: float) -> bool:
        """Return whether a value is better by the threshold; with torch's own, equal negative values are better."""
        higher = self.mode == "max"
        limit: float = best * (1 + self.threshold if higher == (best >= 0) else 1 - self.threshold)
        return a > limit if higher else a < limit

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        options = {key: getattr(self, key) for key in ("factor", "patience", "min_lrs")}
        super().load_state_dict(state_dict | options)


def plateau(
    optimizer: Optimizer,
    *,
    steps_per_epoch: int,
    monitor: str,
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1,
    patience: Annotated[int, Field(ge=0)] = 3,
    min_lr: Annotated[float, Field(ge=0)] = 0.0,
    warmup_epochs: Epochs = 0.0,
) -> list[dict[str, Any]]:
    """Multiply the rate by `factor` once `monitor` has not improved for more than `patience` epochs.

    Args:
        optimizer: The optimizer.
        steps_per_epoch: Optimizer steps of an epoch.
        monitor: Name of the metric.
        factor: Factor of each reduction.
        patience: Epochs without improvement before a reduction.
        min_lr: Lowest rate.
        warmup_epochs: Epochs in which the rate rises linearly; fractions are allowed.
    """
    warmup = round(warmup_epochs * steps_per_epoch)
    configs: list[dict[str, Any]] = []
    if warmup:
        # LinearLR multiplies the current rate, so that it keeps reductions by the plateau schedule.
        rise = LinearLR(optimizer, start_factor=WARMUP_START, total_iters=warmup)
        configs.append({"scheduler": rise, "interval": "step", "name": "warmup"})
    scheduler = _Plateau(optimizer, mode=mode(monitor), factor=factor, patience=patience, min_lr=min_lr)
    configs.append({"scheduler": scheduler, "interval": "epoch", "monitor": monitor, "name": "plateau"})
    return configs


def _by_step(optimizer: Optimizer, factor: Callable[[int], float], warmup: int) -> list[dict[str, Any]]:
    def warmed(done: int) -> float:
        rise = WARMUP_START + (1 - WARMUP_START) * done / warmup if done < warmup else 1.0
        return rise * factor(done)

    return [{"scheduler": LambdaLR(optimizer, warmed), "interval": "step"}]
