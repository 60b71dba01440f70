"""Training throughput in images per second, by batch size."""

import time
from collections.abc import Sequence
from typing import Any

from opsin.training.tuning.memory import available_memory, used_memory
from opsin.training.tuning.trial_steps import TrialSteps, Watch

TOLERANCE = 0.05
"""Fraction of the throughput that a smaller batch may lose."""
MEMORY_SHARE = 0.5
"""Fraction of the available RAM to use; validation, checkpoints and other programs need the rest."""
SECONDS = 60.0
"""Approximate time for all measurements."""
WARM_UP, TIMED, ENOUGH = 2, 2, 0.5
"""Steps of warm-up, smallest number of timed steps, and seconds after which timing ends."""


def powers_of_two(smallest: int, most: int) -> list[int]:
    """Return the batch sizes to try: doubled from the smallest up to `most`; at least one."""
    return [smallest << i for i in range((most // smallest).bit_length())] or [most]


def smallest_within(rates: dict[int, float]) -> int:
    """Return the smallest batch size with a throughput within `TOLERANCE` of the best."""
    return min(size for size, rate in rates.items() if rate >= (1 - TOLERANCE) * max(rates.values()))


def measure_throughput(trials: TrialSteps, sizes: Sequence[int], seconds: float = SECONDS) -> dict[int, float]:
    """Return training images per second by batch size, data loading and Lightning included.

    Each size is measured in two rounds, and the higher value counts, because other programs can only slow it down. The
    first round ends before a size that would need more than half of the available RAM, estimated from the growth of
    the process so far, or more time than is left, and after two doublings without a gain.
    """
    rates: dict[int, float] = {}
    end = time.perf_counter() + seconds
    memory, growth, step = used_memory(), 0.0, 0.0
    for size in sizes:
        if rates:
            too_large = growth * size / 2 > MEMORY_SHARE * available_memory()
            too_long = 2 * step * (WARM_UP + TIMED) > end - time.perf_counter()
            if too_large or too_long or _levelled(list(rates.values())):
                break
        rates[size] = _rate(trials, size)
        step = size / rates[size]
        growth = max(growth, (used_memory() - memory) / (size if len(rates) == 1 else size / 2))
        memory = used_memory()
    for size in rates:
        if size / rates[size] * (WARM_UP + TIMED) < end - time.perf_counter():
            rates[size] = max(rates[size], _rate(trials, size))
    return rates


def _levelled(rates: Sequence[float]) -> bool:
    """Return whether the last two doublings brought no gain."""
    return len(rates) > 2 and max(rates[-2:]) < 1.02 * max(rates[:-2])


def _rate(trials: TrialSteps, size: int) -> float:
    watch = _Stopwatch()
    trials.run(watch, batch_size=size, steps=200, heaviest=True)
    return watch.images_per_second


class _Stopwatch(Watch):
    """Measure the time between the ends of steps, and stop after enough steps."""

    def __init__(self) -> None:
        super().__init__()
        self._ends: list[tuple[float, int]] = []

    @property
    def images_per_second(self) -> float:
        steps = zip(self._ends[WARM_UP - 1 :], self._ends[WARM_UP:], strict=False)
        rates = sorted(images / (end - begin) for (begin, _), (end, images) in steps)
        return rates[len(rates) // 2]

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        outputs["loss"].item()  # wait for the accelerator
        self._ends.append((time.perf_counter(), len(batch.targets)))
        if len(self._ends) >= WARM_UP + TIMED and self._ends[-1][0] - self._ends[WARM_UP - 1][0] > ENOUGH:
            trainer.should_stop = True
