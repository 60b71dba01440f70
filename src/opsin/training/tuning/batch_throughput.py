"""How many images per second a network trains on, by the size of the batch."""

import time
from collections.abc import Sequence
from typing import Any

from opsin.training.tuning.memory import available_memory, used_memory
from opsin.training.tuning.trial_steps import TrialSteps, Watch

TOLERANCE = 0.05
"""What throughput may be lost for a smaller batch."""
MEMORY_SHARE = 0.5
"""Of the available RAM: validation, checkpoints and other programs need some too."""
SECONDS = 60.0
"""Time to spend on measuring throughput, about."""
WARM_UP, TIMED, ENOUGH = 2, 2, 0.5
"""Steps that are not timed, steps that are at least, and seconds after which no more are."""


def powers_of_two(smallest: int, most: int) -> list[int]:
    """The batches to try: doubled from the smallest on, up to `most`; at least one."""
    return [smallest << i for i in range((most // smallest).bit_length())] or [most]


def smallest_within(rates: dict[int, float], tolerance: float = TOLERANCE) -> int:
    """The smallest batch whose images per second come within a tolerance of the best."""
    return min(size for size, rate in rates.items() if rate >= (1 - tolerance) * max(rates.values()))


def measure_throughput(trials: TrialSteps, sizes: Sequence[int], seconds: float = SECONDS) -> dict[int, float]:
    """Training images per second at some batch sizes, data and Lightning's own work included.

    Each size is tried twice, in two rounds, and the better one counts, for other programs only ever slow one down. The
    first round ends before a size that would need more than half of the available RAM, judging by how the process has
    grown so far, or more time than is left; and where two doublings have brought nothing.
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
    """Whether the last two doublings were no faster than what came before."""
    return len(rates) > 2 and max(rates[-2:]) < 1.02 * max(rates[:-2])


def _rate(trials: TrialSteps, size: int) -> float:
    watch = _Stopwatch()
    trials.run(watch, batch_size=size, steps=200, heaviest=True)
    return watch.images_per_second


class _Stopwatch(Watch):
    """Times steps from end to end, and stops once it has seen enough of them."""

    def __init__(self) -> None:
        super().__init__()
        self._ends: list[tuple[float, int]] = []

    @property
    def images_per_second(self) -> float:
        steps = zip(self._ends[WARM_UP - 1 :], self._ends[WARM_UP:], strict=False)
        rates = sorted(images / (end - begin) for (begin, _), (end, images) in steps)
        return rates[len(rates) // 2]

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        outputs["loss"].item()  # an accelerator has only been told so far
        self._ends.append((time.perf_counter(), len(batch.targets)))
        if len(self._ends) >= WARM_UP + TIMED and self._ends[-1][0] - self._ends[WARM_UP - 1][0] > ENOUGH:
            trainer.should_stop = True
