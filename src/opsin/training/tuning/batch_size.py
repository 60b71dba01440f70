"""`datamodule.batch_size=auto`: find the batch size for this machine, and scale the learning rate to it.

On CUDA it is the largest batch whose training step fits into 90 % of the free memory. Only 2^k and 3 * 2^k images per
device are tried; if the limit M (see below) is less than 16 images, M, M/2, M/4, ... are tried, and then 2 and 1.5
times the size that fits.

On a CPU and on MPS it is the smallest batch within 5 % of the highest throughput, because the system kills a process
that uses too much memory and larger batches are not faster beyond some size. The sizes 16, 32, ... up to 512 per device
are tried.

In both cases there is a limit: an epoch has at least 32 optimizer steps, or the batch has at most 16 images over all
devices. Large batches lose accuracy because of fewer updates (Hoffer et al., arXiv:1705.08741).

The learning rate is scaled with the batch size: linearly for SGD (Goyal et al., arXiv:1706.02677), with the square root
for Adam and other optimizers that normalize the gradient (Malladi et al., arXiv:2205.10287).
"""

import gc
import logging
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from opsin.config import RunConfig
from opsin.data import ImageDataModule
from opsin.data.available_memory import available_memory
from opsin.errors import UserError, is_out_of_memory
from opsin.runs.rank import is_spawned
from opsin.runs.result import BatchSizeResult
from opsin.training.accelerator import num_devices, resolve_accelerator
from opsin.training.loss import ClassificationLoss
from opsin.training.plan import RunPlan, make_plan
from opsin.training.tuning.memory import cuda_limited_to, used_memory
from opsin.training.tuning.trial_steps import TrialSteps, Watch, first_device

log = logging.getLogger(__name__)

MIN_STEPS_PER_EPOCH = 32
"""Smallest number of optimizer steps of an epoch, unless the batch has at most `SMALLEST` images."""

SMALLEST = 16
"""First batch size per device to try."""

LARGEST_ON_CPU = 512
"""Largest batch size per device to try on a CPU and on MPS; CUDA has no such limit."""

CUDA_SHARE = 0.9
"""Fraction of the free memory to use; fragmentation and the last validation batch need the rest."""

TOLERANCE = 0.05
"""Fraction of the throughput that a smaller batch may lose."""

MEMORY_SHARE = 0.5
"""Fraction of the available RAM to use; validation, checkpoints and other programs need the rest."""

MEASUREMENTS_S = 60.0
"""Approximate time for all measurements."""

WARM_UP = 2
"""Number of steps before the timed ones."""

TIMED = 2
"""Smallest number of timed steps."""

ENOUGH_S = 0.5
"""Seconds of timed steps after which timing ends."""

PATIENCE_S = 1800.0
"""Seconds that other processes of a run wait for the result of process 0."""


def resolve_batch_size(
    composed: RunConfig, plan: RunPlan, data: ImageDataModule, loss: ClassificationLoss
) -> tuple[RunConfig, RunPlan, BatchSizeResult | None]:
    """Replace `datamodule.batch_size=auto` by a number, and scale the learning rate.

    The number is measured once: process 0 saves it in the run directory, where other processes, resumes and
    evaluations read it. The run is the same as one with this batch size and learning rate in its config.

    Args:
        composed: The config of the run.
        plan: The plan of the run.
        data: The datamodule after `setup("fit")`; its `batch_size` is set.
        loss: The loss of the run.

    Returns:
        Config and plan with the numbers, and the result of the search; None if there was no search.

    Raises:
        UserError: Not even one image fits.
    """
    if plan.data.batch_size != "auto":
        return composed, plan, None
    if is_spawned():
        resolved, found = composed.changed(_wait_for(composed)), None
    else:
        found = find_batch_size(plan, data, TrialSteps(plan, data, loss, composed.run.path))
        resolved = composed.changed({"datamodule.batch_size": found.batch_size, "optimizer.lr": found.lr})
        resolved.save()
    plan = replace(make_plan(resolved), trainer=plan.trainer)  # its `auto` values may be resolved already
    assert plan.data.batch_size != "auto"
    data.batch_size = plan.data.batch_size
    return resolved, plan, found


def find_batch_size(plan: RunPlan, data: ImageDataModule, trials: TrialSteps) -> BatchSizeResult:
    """Find the batch size and scale the learning rate by the rules of the module docstring.

    Args:
        plan: The plan of the run.
        data: The datamodule after `setup("fit")`.
        trials: The training steps.

    Raises:
        UserError: Not even one image fits.
    """
    accelerator = resolve_accelerator(plan.trainer.accelerator)
    devices = num_devices(plan.trainer.accelerator, plan.trainer.devices, plan.trainer.num_nodes)
    images, accumulated = len(data.subset("train")), plan.trainer.accumulate_grad_batches
    most = max(images // (MIN_STEPS_PER_EPOCH * accumulated), min(SMALLEST, images)) // devices
    begun = time.perf_counter()
    tried: dict[int, float | bool] = {}
    if accelerator == "gpu":
        best = _largest_on_cuda(trials, max(1, most), first_device(plan.trainer), tried)
        why = f"the largest that fits into {CUDA_SHARE:.0%} of the free memory"
    else:
        sizes = powers_of_two(SMALLEST, min(LARGEST_ON_CPU, max(1, most)))
        rates = measure_throughput(trials, sizes)
        tried |= rates
        best, why = smallest_within(rates), f"the smallest within {TOLERANCE:.0%} of the best throughput"
        if len(rates) < min(2, len(sizes)):  # a step takes too long or too much memory for a comparison
            best = max(1, min(data.base_batch_size // devices, most))
            why = "the base size, because no other size could be tried"
    batch_size, base = best * devices, data.base_batch_size
    before = plan.groups.lr
    rule, exponent = scaling_rule(plan.optimizer.call)
    lr = float(f"{before * (batch_size / base) ** exponent:.4g}")
    steps = math.ceil(math.ceil(images / batch_size) / accumulated)
    log.info(
        "batch      auto: %d, %s; %d steps per epoch (%.0f s of trials); "
        "optimizer.lr %g for %d images becomes %g (%s rule)",
        *(batch_size, why, steps, time.perf_counter() - begun, before, base, lr, rule),
    )
    return BatchSizeResult(batch_size, base, before, lr, rule, tried)


def scaling_rule(optimizer: Callable[..., Any]) -> tuple[str, float]:
    """Return the name and the exponent of the rule that scales the learning rate with the batch size.

    A step of SGD is the mean gradient, so a step with twice the batch and twice the rate replaces two steps. An
    optimizer that normalizes the gradient takes steps of fixed length; only their noise shrinks, with the square root
    of the batch size.
    """
    plain = isinstance(optimizer, type) and issubclass(optimizer, (torch.optim.SGD, torch.optim.ASGD))
    return ("linear", 1.0) if plain else ("square root", 0.5)


def largest_that_fits(fits: Callable[[int], bool], most: int) -> int:
    """Return the largest tried batch size that fits, at most `most`; 0 if none fits.

    The sizes are 2^k and 3 * 2^k, or fractions of `most` if it is below 16.
    """
    size = min(SMALLEST, most)
    while size and not fits(size):
        size //= 2
    while size and 2 * size <= most and fits(2 * size):
        size *= 2
    between = size * 3 // 2
    return between if size < between <= most and fits(between) else size


def powers_of_two(smallest: int, most: int) -> list[int]:
    """Return the batch sizes to try: doubled from the smallest up to `most`; at least one."""
    return [smallest << i for i in range((most // smallest).bit_length())] or [most]


def smallest_within(rates: dict[int, float]) -> int:
    """Return the smallest batch size with a throughput within `TOLERANCE` of the best."""
    return min(size for size, rate in rates.items() if rate >= (1 - TOLERANCE) * max(rates.values()))


def measure_throughput(trials: TrialSteps, sizes: Sequence[int], seconds: float = MEASUREMENTS_S) -> dict[int, float]:
    """Return training images per second by batch size, data loading and Lightning included.

    Each size is measured in two rounds, and the higher value counts, because other programs can only slow it down. The
    first round ends early in three cases: the next size would need more than half of the available RAM, estimated from
    the growth of the process so far; it would need more time than is left; or two doublings brought no gain.
    """
    rates: dict[int, float] = {}
    end = time.perf_counter() + seconds
    memory, growth, step = used_memory(), 0.0, 0.0
    for size in sizes:
        if rates:
            too_large = growth * size / 2 > MEMORY_SHARE * available_memory()
            too_long = 2 * step * (WARM_UP + TIMED) > end - time.perf_counter()
            if too_large or too_long or _no_gain_left(list(rates.values())):
                break
        rates[size] = _rate(trials, size)
        step = size / rates[size]
        growth = max(growth, (used_memory() - memory) / (size if len(rates) == 1 else size / 2))
        memory = used_memory()
    for size in rates:
        if size / rates[size] * (WARM_UP + TIMED) < end - time.perf_counter():
            rates[size] = max(rates[size], _rate(trials, size))
    return rates


def _no_gain_left(rates: Sequence[float]) -> bool:
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
        return statistics.median(images / (end - begin) for (begin, _), (end, images) in steps)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        outputs["loss"].item()  # wait for the accelerator
        self._ends.append((time.perf_counter(), len(batch.targets)))
        if len(self._ends) >= WARM_UP + TIMED and self._ends[-1][0] - self._ends[WARM_UP - 1][0] > ENOUGH_S:
            trainer.should_stop = True


def _largest_on_cuda(trials: TrialSteps, most: int, device: int, tried: dict[int, float | bool]) -> int:
    def fits(size: int) -> bool:
        tried[size] = step_fits(trials, size)
        return bool(tried[size])

    with cuda_limited_to(CUDA_SHARE, device):
        best = largest_that_fits(fits, most)
    if not best:
        raise UserError(
            "datamodule.batch_size=auto: not even one image fits into the memory of the accelerator; "
            "lower datamodule.image_size or choose a smaller model"
        )
    return best


def step_fits(trials: TrialSteps, size: int) -> bool:
    """Return whether a few training steps, optimizer state included, fit into memory."""
    try:
        trials.run(Watch(), batch_size=size, steps=3, heaviest=True)
        fits = True
    except Exception as error:  # a library of CUDA that finds no memory raises an error of its own
        if not is_out_of_memory(error):
            raise
        fits = False
    gc.collect()  # outside the handler, whose traceback holds the tensors
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return fits


def _wait_for(composed: RunConfig) -> dict[str, Any]:
    """Wait for the result of process 0; processes that Lightning starts find it immediately."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if composed.run.config.exists():
            tree = RunConfig.load(composed.run).tree
            if tree["datamodule"]["batch_size"] != "auto":
                return {
                    "datamodule.batch_size": tree["datamodule"]["batch_size"],
                    "optimizer.lr": tree["optimizer"]["lr"],
                }
        time.sleep(0.5)
    raise UserError(f"datamodule.batch_size=auto: process 0 wrote no number to {composed.run.path}")
