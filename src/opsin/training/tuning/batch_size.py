"""`datamodule.batch_size=auto`: the batch that this machine takes best, and the learning rate that goes with it.

On CUDA that is the largest batch whose training step fits into 90 % of the free memory. On a CPU memory is no measure
(the system kills a process that asks for too much, and larger is not faster beyond some point): there it is the
smallest batch within 5 % of the highest throughput. In either case an epoch keeps at least 32 steps: a network learns
by updates, and what large batches lose in accuracy they lose for want of them (Hoffer et al., arXiv:1705.08741).

The learning rate follows the batch: in proportion for SGD (Goyal et al., arXiv:1706.02677), with the square root for
Adam and other optimizers that divide by the gradient's size (Malladi et al., arXiv:2205.10287).
"""

import gc
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from opsin.config import RunConfig
from opsin.data import ImageDataModule
from opsin.errors import UserError
from opsin.runs.rank import is_spawned
from opsin.training.hardware import resolve_accelerator
from opsin.training.loss import ClassificationLoss
from opsin.training.plan import RunPlan, make_plan
from opsin.training.tuning.batch_throughput import TOLERANCE, measure_throughput, powers_of_two, smallest_within
from opsin.training.tuning.memory import cuda_limited_to
from opsin.training.tuning.trial_steps import TrialSteps, Watch, first_device

log = logging.getLogger(__name__)

MIN_STEPS_PER_EPOCH = 32
SMALLEST, LARGEST_ON_CPU = 16, 512
CUDA_SHARE = 0.9
"""Of the free memory: the allocator's fragments and the last validation batch need the rest."""
PATIENCE = 1800.0
"""Seconds that a further process of a run waits for what the first one finds."""


@dataclass(frozen=True)
class BatchSizeResult:
    """What `auto` became.

    Attributes:
        batch_size: images of a step, over all devices together.
        base_batch_size: the batch that the learning rate was written for.
        lr_before: as written.
        lr: scaled to the batch.
        rule: `linear` or `square root`.
        tried: by batch size on one device: images per second, or whether it fits.
    """

    batch_size: int
    base_batch_size: int
    lr_before: float
    lr: float
    rule: str
    tried: dict[int, float | bool]

    def facts(self) -> dict[str, Any]:
        """Plain values for the result."""
        return asdict(self)


def settle_batch_size(
    composed: RunConfig, plan: RunPlan, data: ImageDataModule, loss: ClassificationLoss
) -> tuple[RunConfig, RunPlan, BatchSizeResult | None]:
    """Put a number in the place of `datamodule.batch_size=auto`, and the learning rate that goes with it.

    The number is measured once: further processes of the run take what the first one wrote into its directory, and so
    does every later resume and evaluation. Nothing else changes: the run is the one that has this batch size and
    learning rate set by hand.

    Args:
        composed: the run's config.
        plan: the same, checked.
        data: set up for fitting; its `batch_size` is set.
        loss: the run's.

    Returns:
        Config and plan with the numbers, the latter saved; and what was found, None where nothing was to be.

    Raises:
        UserError: not a single image fits, or a run that has begun is to change its batch.
    """
    if plan.data.batch_size != "auto":
        return composed, plan, None
    if composed.run.last.exists():
        raise UserError(
            "datamodule.batch_size=auto does not go with resume: the run goes on with the batch that it has"
        )
    if is_spawned():
        settled, found = composed.changed(_wait_for(composed)), None
    else:
        found = find_batch_size(plan, data, TrialSteps(plan, data, loss, composed.run.path))
        settled = composed.changed({"datamodule.batch_size": found.batch_size, "optimizer.lr": found.lr})
        settled.save()
    plan = make_plan(settled)
    assert plan.data.batch_size != "auto"
    data.batch_size = plan.data.batch_size
    return settled, plan, found


def find_batch_size(plan: RunPlan, data: ImageDataModule, trials: TrialSteps) -> BatchSizeResult:
    """Search, and scale the learning rate; see the module's docstring for the rules.

    Args:
        plan: tells the accelerator, the number of devices and the learning rate.
        data: tells how many images there are, and the batch that the learning rate was written for.
        trials: takes the steps.

    Raises:
        UserError: not a single image fits.
    """
    devices, accelerator = num_devices(plan), resolve_accelerator(plan.trainer.accelerator)
    images = len(data.subset("train"))
    most = max(images // MIN_STEPS_PER_EPOCH, min(SMALLEST, images)) // devices
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
        if len(rates) < min(2, len(sizes)):  # a step takes too long, or too much memory, to compare any
            best, why = max(1, min(data.base_batch_size // devices, most)), "the base, for no other could be tried,"
    batch_size, base = best * devices, data.base_batch_size
    before = plan.groups.lr
    rule, exponent = scaling_rule(plan.optimizer.call)
    lr = float(f"{before * (batch_size / base) ** exponent:.4g}")
    log.info(
        "batch      auto: %d, %s that leaves an epoch %d steps (%.0f s of trials); "
        "optimizer.lr %g for %d images becomes %g (%s rule)",
        *(batch_size, why, math.ceil(images / batch_size), time.perf_counter() - begun, before, base, lr, rule),
    )
    return BatchSizeResult(batch_size, base, before, lr, rule, tried)


def scaling_rule(optimizer: Callable[..., Any]) -> tuple[str, float]:
    """How the learning rate grows with the batch: name and exponent.

    The step of plain SGD is the gradient's mean, so twice the batch takes the place of two steps with twice the rate.
    An optimizer that divides by the gradient's size takes steps of a length of its own, and only the noise in their
    direction shrinks, with the square root of the batch.
    """
    plain = isinstance(optimizer, type) and issubclass(optimizer, (torch.optim.SGD, torch.optim.ASGD))
    return ("linear", 1.0) if plain else ("square root", 0.5)


def num_devices(plan: RunPlan) -> int:
    """Return the number of devices that share a batch, on all machines."""
    devices = plan.trainer.devices
    if devices == "auto":
        cuda = resolve_accelerator(plan.trainer.accelerator) == "gpu"
        devices = torch.cuda.device_count() if cuda else 1
    return (len(devices) if isinstance(devices, list) else devices) * plan.trainer.num_nodes


def largest_that_fits(fits: Callable[[int], bool], most: int) -> int:
    """The largest batch of the form 2^k or 3 * 2^k that fits and does not exceed `most`; 0 if none does."""
    size = min(SMALLEST, most)
    while size and not fits(size):
        size //= 2
    while size and 2 * size <= most and fits(2 * size):
        size *= 2
    between = size * 3 // 2
    return between if size < between <= most and fits(between) else size


def _largest_on_cuda(trials: TrialSteps, most: int, device: int, tried: dict[int, float | bool]) -> int:
    def fits(size: int) -> bool:
        tried[size] = step_fits(trials, size)
        return bool(tried[size])

    with cuda_limited_to(CUDA_SHARE, device):
        best = largest_that_fits(fits, most)
    if not best:
        raise UserError("datamodule.batch_size=auto: not even one image fits into the memory of the accelerator")
    return best


def step_fits(trials: TrialSteps, size: int) -> bool:
    """Whether a few training steps, the optimizer's state included, get by without running out of memory."""
    try:
        trials.run(Watch(), batch_size=size, steps=3, heaviest=True)
        fits = True
    except torch.OutOfMemoryError:
        fits = False
    gc.collect()  # outside of the handler: its traceback holds the tensors
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return fits


def _wait_for(composed: RunConfig) -> dict[str, Any]:
    """What the first process of this run found; processes that Lightning starts find it there already."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if composed.run.config.exists():
            tree = RunConfig.load(composed.run).tree
            if tree["datamodule"]["batch_size"] != "auto":
                return {
                    "datamodule.batch_size": tree["datamodule"]["batch_size"],
                    "optimizer.lr": tree["optimizer"]["lr"],
                }
        time.sleep(0.5)
    raise UserError(
        f"datamodule.batch_size=auto: the first process of the run has left no number in {composed.run.path}"
    )
