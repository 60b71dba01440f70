"""A learning-rate range test: train while the rate rises, and see where the loss falls and where it explodes.

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
"""The test ends where the smoothed loss is so many times its lowest."""
SMOOTHING = 0.9
"""What a new loss leaves of the running mean: about the last ten steps count."""
FEWEST = 20
"""Steps without which nothing can be said."""
UNSETTLED = 10
"""First steps, whose running mean still follows every batch."""


@dataclass(frozen=True)
class RangeTest:
    """What a range test measured.

    Attributes:
        rates: learning rate of the head at each step, rising.
        losses: training loss of the step's batch, before the step.
        batch_size: images of a step.
        diverged: whether the loss exploded before the highest rate was reached.
        smooth: the losses, smoothed.
    """

    rates: list[float]
    losses: list[float]
    batch_size: int
    diverged: bool
    smooth: list[float] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "smooth", smoothed(self.losses))

    @property
    def steepest(self) -> float:
        """The rate at which the loss falls fastest per decade (of the rate), before its lowest point."""
        return self.rates[steepest(self.rates, self.smooth)]

    @property
    def valley(self) -> float:
        """The rate in the middle of the longest descent: lower than the steepest, and less moved by a noisy step."""
        return self.rates[valley(self.smooth)]


def range_test(
    plan: RunPlan, data: ImageDataModule, trials: TrialSteps, *, steps: int, lowest: float = 1e-7, highest: float = 10.0
) -> RangeTest:
    """Train for some steps while the learning rate rises exponentially from `lowest` to `highest`.

    Other rates than the head's keep their ratio to it. The network has its pretrained weights, its frozen stages are
    frozen, batches are augmented as in the run; the run's schedule does not apply.

    Args:
        plan: the run's.
        data: set up for fitting.
        trials: takes the steps.
        steps: optimizer steps.
        lowest: learning rate of the first step.
        highest: learning rate of the last step, which is seldom reached.

    Raises:
        UserError: the loss was not a number from the start.
    """
    watch = _Raise(np.geomspace(lowest, highest, steps).tolist(), plan.groups.lr)
    trials.run(watch, batch_size=data.batch_size, steps=steps, pretrained=True)
    if len(watch.losses) < min(FEWEST, steps):
        raise UserError(
            f"The loss was not a number after {len(watch.losses)} steps at learning rates up to "
            f"{watch.rates[len(watch.losses)]:.1e}: begin lower (--lowest), and look at the data and the precision"
        )
    return RangeTest(watch.rates[: len(watch.losses)], watch.losses, data.batch_size, watch.diverged)


class _Raise(Watch):
    """Sets the rate of each step and keeps its loss."""

    def __init__(self, rates: list[float], written: float) -> None:
        super().__init__()
        self.rates = rates
        self.losses: list[float] = []
        self.diverged = False
        self._written = written
        self._factors: list[float] = []
        self._parts: list[float] = []  # of the step under way, where gradients are accumulated

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
        loss, self._parts = sum(self._parts), []  # Lightning has divided each by their number
        smooth = smoothed([*self.losses, loss])
        if not math.isfinite(loss) or (len(smooth) > FEWEST and smooth[-1] > DIVERGED * min(smooth)):
            self.diverged = trainer.should_stop = True
        if math.isfinite(loss):
            self.losses.append(loss)


def smoothed(losses: Sequence[float]) -> list[float]:
    """Exponentially smoothed, without the bias towards 0 at the beginning (as in Adam)."""
    mean, result = 0.0, []
    for count, loss in enumerate(losses, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        result.append(mean / (1 - SMOOTHING**count))
    return result


def steepest(rates: Sequence[float], losses: Sequence[float]) -> int:
    """The place of the steepest fall over the logarithm of the rate, up to the lowest loss."""
    first = min(UNSETTLED, len(losses) // 2)
    slope: NDArray[np.float64] = np.gradient(np.asarray(losses), np.log(rates))
    last = max(int(np.argmin(losses)), first)
    return first + int(np.argmin(slope[first : last + 1]))


def valley(losses: Sequence[float]) -> int:
    """The middle of the valley that the longest falling subsequence ends in, which small bumps do not end.

    As fastai's `valley`: the subsequence counts with its length, laid backwards from its end, so that the flat part in
    which the rate is too low to do anything weighs only as much as it falls.
    """
    length = [1] * len(losses)
    for i in range(1, len(losses)):
        length[i] += max((length[j] for j in range(i) if losses[j] > losses[i]), default=0)
    longest = int(np.argmax(length))
    return longest - length[longest] // 2
