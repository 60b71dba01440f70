"""A learning-rate range test: train while the rate rises, record the loss of each step, and suggest a rate.

Smith, "Cyclical learning rates", arXiv:1506.01186, section 3.3; exponential steps and the bounds of the search as in
fastai.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opsin.data import ImageDataModule
from opsin.errors import UserError
from opsin.training.plan import RunPlan
from opsin.training.tuning.trial_steps import TrialSteps, Watch

DIVERGED = 4.0
"""Ratio of the smoothed loss to its lowest value at which the test ends."""

SMOOTHING = 0.9
"""Weight of the running mean at each step; it averages about ten steps."""

FEWEST = 20
"""Smallest number of steps for a result."""

UNSETTLED = 10
"""Number of first steps to ignore, because their running mean is noisy."""


@dataclass(frozen=True)
class RangeTest:
    """The measurements of a range test.

    Attributes:
        rates: Learning rate of the head at each step, rising.
        losses: Training loss of the batch before each step.
        batch_size: Number of images per batch.
        diverged: Whether the loss diverged before the highest rate.
        smooth: Smoothed losses.
    """

    rates: list[float]
    losses: list[float]
    batch_size: int
    diverged: bool
    smooth: list[float] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "smooth", smoothed(self.losses))

    @property
    def suggested(self) -> float:
        """The rate that `opsin find-lr` suggests: `valley`. `steepest` is an upper limit."""
        return self.valley

    @property
    def steepest(self) -> float:
        """The rate at which the loss falls fastest per decade of the rate, before its lowest point."""
        return self.rates[steepest(self.rates, self.smooth)]

    @property
    def valley(self) -> float:
        """The rate in the middle of the longest descent. Noisy steps affect it less than `steepest`."""
        return self.rates[valley(self.smooth)]


def range_test(
    plan: RunPlan, data: ImageDataModule, trials: TrialSteps, *, steps: int, lowest: float, highest: float
) -> RangeTest:
    """Train for some steps while the learning rate rises exponentially from `lowest` to `highest`.

    Rates of other parameter groups keep their ratio to the rate of the head. Pretrained weights, frozen stages and
    augmentation are those of the run; the schedule of the run does not apply.

    Args:
        plan: The plan of the run.
        data: The datamodule after `setup("fit")`.
        trials: The training steps.
        steps: Optimizer steps.
        lowest: Learning rate of the first step.
        highest: Learning rate of the last step; most tests diverge earlier.

    Raises:
        UserError: The loss is not finite in one of the first steps.
    """
    watch = _Raise(np.geomspace(lowest, highest, steps).tolist(), plan.groups.lr)
    trials.run(watch, batch_size=data.batch_size, steps=steps, pretrained=True)
    if len(watch.losses) < min(FEWEST, steps):
        raise UserError(
            f"the loss is not finite after {len(watch.losses)} steps at learning rates up to "
            f"{watch.rates[len(watch.losses)]:.1e}; lower --lowest, and check the data and trainer.precision"
        )
    return RangeTest(watch.rates[: len(watch.losses)], watch.losses, data.batch_size, watch.diverged)


class _Raise(Watch):
    """Set the rate of each step and record its loss."""

    def __init__(self, rates: list[float], written: float) -> None:
        super().__init__()
        self.rates = rates
        self.losses: list[float] = []
        self.diverged = False
        self._written = written
        self._factors: list[float] = []
        self._parts: list[float] = []  # losses of the current step, with accumulated gradients

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._factors = [group["lr"] / self._written for group in trainer.optimizers[0].param_groups]

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        rate = self.rates[min(trainer.global_step, len(self.rates) - 1)]
        for group, factor in zip(trainer.optimizers[0].param_groups, self._factors, strict=True):
            group["lr"] = rate * factor

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._parts.append(float(outputs["loss"]))
        if trainer.global_step == len(self.losses):
            return
        loss, self._parts = sum(self._parts), []  # Lightning divides each by their number
        smooth = smoothed([*self.losses, loss])
        if not math.isfinite(loss) or (len(smooth) > FEWEST and smooth[-1] > DIVERGED * min(smooth)):
            self.diverged = trainer.should_stop = True
        if math.isfinite(loss):
            self.losses.append(loss)


def smoothed(losses: Sequence[float]) -> list[float]:
    """Return exponentially smoothed losses, without the initial bias toward 0 (as in Adam)."""
    mean, result = 0.0, []
    for count, loss in enumerate(losses, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        result.append(mean / (1 - SMOOTHING**count))
    return result


def steepest(rates: Sequence[float], losses: Sequence[float]) -> int:
    """Return the index of the steepest descent over the logarithm of the rate, up to the lowest loss."""
    first = min(UNSETTLED, len(losses) // 2)
    slope: NDArray[np.float64] = np.gradient(np.asarray(losses), np.log(rates))
    last = max(int(np.argmin(losses)), first)
    return first + int(np.argmin(slope[first : last + 1]))


def valley(losses: Sequence[float]) -> int:
    """Return the index in the middle of the longest descent, the longest decreasing subsequence of the losses.

    As in fastai's `valley`, it is the last index of the subsequence minus half the number of its losses. Small bumps do
    not end it, and the flat part at low rates has little weight.
    """
    length = [1] * len(losses)
    for i in range(1, len(losses)):
        length[i] += max((length[j] for j in range(i) if losses[j] > losses[i]), default=0)
    longest = int(np.argmax(length))
    return longest - length[longest] // 2
