"""Apply the config to a restored optimizer: its state comes from the checkpoint, its options from the config."""

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

CONFIGURED = "configured_lr"
"""Key of a parameter group under which it keeps the learning rate of the config."""

OPTIONS = ("weight_decay", "betas", "eps", "momentum", "nesterov", "dampening")
CYCLED = ("betas", "momentum")
"""Options that some schedules of torch, such as OneCycleLR and CyclicLR, set at every step."""

SCHEDULE_RATES = ("initial_lr", "max_lr", "min_lr")
"""Keys of a parameter group under which the schedules of torch keep learning rates."""

LENGTH = ("total_steps", "_schedule_phases")
"""Attributes of torch's OneCycleLR that depend on the number of steps of the run."""


def mark_configured(optimizer: Optimizer) -> None:
    """Note the learning rate of the config in every group of a new optimizer."""
    for group in optimizer.param_groups:
        group[CONFIGURED] = group["lr"]


def group_options(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return the options of every group, without its parameters."""
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]


def lengths(schedulers: Iterable[Any]) -> list[dict[str, Any]]:
    """Return the attributes of each schedule that depend on the number of steps of the run."""
    return [
        {name: getattr(scheduler, name) for name in LENGTH} if isinstance(scheduler, OneCycleLR) else {}
        for scheduler in schedulers
    ]


def apply_config(
    optimizer: Optimizer,
    schedulers: Iterable[Any],
    configured: Sequence[Mapping[str, Any]],
    planned: Sequence[Mapping[str, Any]],
) -> None:
    """Put the values of the config into a restored optimizer and its schedules; unchanged ones stay bit-identical.

    A changed learning rate scales the rate in effect, with the schedule and the plateau reductions in it. Schedules
    that depend only on the step are computed again for this step.

    Args:
        optimizer: The restored optimizer.
        schedulers: Its restored schedules.
        configured: `group_options` of the optimizer before it was restored.
        planned: `lengths` of the schedules before they were restored: the resumed run may be longer or shorter.
    """
    schedulers = list(schedulers)
    for scheduler, length in zip(schedulers, planned, strict=True):
        vars(scheduler).update(length)
    cycled = any(getattr(scheduler, "cycle_momentum", False) for scheduler in schedulers)
    ratios = []
    for group, fresh in zip(optimizer.param_groups, configured, strict=True):
        ratios.append(fresh[CONFIGURED] / group.get(CONFIGURED, fresh[CONFIGURED]))
        group |= {key: fresh[key] for key in OPTIONS if key in fresh and not (cycled and key in CYCLED)}
        group[CONFIGURED] = fresh[CONFIGURED]
        if ratios[-1] != 1:
            group["lr"] *= ratios[-1]
        for key in SCHEDULE_RATES:
            if key in fresh:
                _replace(group, key, fresh[key] * group.get("phase_factor", 1.0))
    for scheduler in schedulers:
        if hasattr(scheduler, "base_lrs") and any(ratio != 1 for ratio in ratios):
            scheduler.base_lrs = [rate * ratio for rate, ratio in zip(scheduler.base_lrs, ratios, strict=True)]
        for group, rate in zip(optimizer.param_groups, _rates(scheduler), strict=False):
            _replace(group, "lr", rate)


def _rates(scheduler: Any) -> list[float]:
    """Return the rates of this step by a schedule that depends only on the step; empty for others."""
    if isinstance(scheduler, LambdaLR):
        pairs = zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        return [float(base * factor(scheduler.last_epoch)) for base, factor in pairs]
    if isinstance(scheduler, OneCycleLR):
        with warnings.catch_warnings():  # about a call without an optimizer step
            warnings.simplefilter("ignore", UserWarning)
            return [float(rate) for rate in scheduler.get_lr()]
    return []


def _replace(group: dict[str, Any], key: str, value: float) -> None:
    """Replace a rate unless it differs only by rounding."""
    if not math.isclose(group.get(key, math.nan), value, rel_tol=1e-9):
        group[key] = value
