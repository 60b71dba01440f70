"""Measure whether a network is faster in bfloat16 than in float32 on this processor, and decide its precision.

The steps of both precisions alternate, so that a change in the load of the machine affects both alike, and the median
of the ratios of neighboring steps is taken. The result belongs to processor, version of torch, number of threads,
network and input; it is measured once and kept in the user's cache folder (`opsin.runs.machine_cache`).
"""

import copy
import hashlib
import math
import statistics
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch

from opsin.models import Network
from opsin.models.shapes import strides_over_one_pixel
from opsin.runs.machine_cache import measured_once
from opsin.runs.rank import is_spawned
from opsin.runs.result import PrecisionResult
from opsin.training.accelerator import num_devices, resolve_accelerator
from opsin.training.feature_extraction import BLOCK_ON_CPU, structure_digest
from opsin.training.hardware import cpu_name, prepare_network
from opsin.training.precision import (
    Capabilities,
    Precision,
    bfloat16_instructions,
    lightning_precision,
    resolve_precision,
)
from opsin.training.trainer import TrainerOptions

MEASUREMENT_S, MOST_PAIRS = 2.0, 15
"""Time for all steps, warm-up included, and number of pairs of steps after which the measurement ends earlier."""

SLOW_STEP_S = 0.2
"""Seconds of a step above which the batch is made smaller, so that there is time for several pairs."""

MOST_VALUES = 2**20
"""Values of a batch of images: larger batches take longer to measure, and the ratio is the same."""

FEWEST_TRAINED = 2
"""Images of the smallest batch of a training step: BatchNorm refuses a single image whose map is one pixel."""

WRONG_GRADIENTS = (
    "torch computes wrong bfloat16 gradients of convolutions with a stride over a single pixel, which this "
    "network has at this image size"
)
"""Reason for float32: in torch 2.11 to 2.14, the gradient of the weights is partly uninitialized memory.

It happens on processors with AVX-512, also without instructions for bfloat16. The gradient of the maps is correct, so
frozen weights do no harm.
"""

Step = Callable[[bool], None]
"""A step in bfloat16 (True) or float32 (False)."""


def decide_precision(
    options: TrainerOptions,
    network: Network,
    shape: tuple[int, int, int],
    batch_size: int,
    *,
    trains: bool = True,
    capabilities: Capabilities | None = None,
) -> tuple[TrainerOptions, PrecisionResult | None]:
    """Resolve `trainer.precision=auto` for a network.

    With several processes nothing is measured, because all must decide alike.

    Args:
        options: The keys of the `trainer` section.
        network: The network with its frozen stages; not changed.
        shape: (channels, height, width) of an image.
        batch_size: Number of images per batch.
        trains: Whether training steps are measured; False: forward passes.
        capabilities: Capabilities of the processor by torch's name; None for those of this machine.

    Returns:
        The options with the precision, and the decision; None if the precision is set.
    """
    if options.precision != "auto":
        return options, None
    accelerator = resolve_accelerator(options.accelerator)
    on_cpu = accelerator == "cpu" and bfloat16_instructions(capabilities)
    if on_cpu and trains and strides_over_one_pixel(network, shape):
        return replace(options, precision="32"), PrecisionResult("32", WRONG_GRADIENTS)
    alone = num_devices(options.accelerator, options.devices, options.num_nodes) == 1 and not is_spawned()
    gain = partial(bfloat16_gain, network, shape, batch_size, options=options, trains=trains)
    measure = partial(gain, capabilities=capabilities) if alone else None
    found = resolve_precision("auto", accelerator, measure=measure, capabilities=capabilities)
    return replace(options, precision=cast("Precision", found.precision)), found


def gradient_fault(
    options: TrainerOptions, network: Network, shape: tuple[int, int, int], frozen: Collection[str]
) -> str | None:
    """Return one line if a run trains on the CPU with gradients that torch computes wrongly in bfloat16, or None.

    The answer is the same for every processor, because a run may be resumed on another one.

    Args:
        options: The keys of the `trainer` section, with the precision resolved.
        network: The network; not changed.
        shape: (channels, height, width) of an image.
        frozen: The stages that never train.
    """
    accelerator = resolve_accelerator(options.accelerator)
    precision = lightning_precision(options.precision, accelerator)
    if accelerator != "cpu" or precision not in ("bf16-mixed", "bf16-true"):
        return None
    if not strides_over_one_pixel(network, shape, without=frozen):
        return None
    half = ", which is bf16 on a CPU" if str(options.precision) == "16" else ""
    return f"trainer.precision={options.precision}{half}: {WRONG_GRADIENTS}. Set trainer.precision=32"


def evaluation_precision(options: TrainerOptions, network: Network, shape: tuple[int, int, int]) -> TrainerOptions:
    """Return the options for forward passes of a network, with `trainer.precision=auto` resolved.

    Args:
        options: The keys of the `trainer` section.
        network: The network; not changed.
        shape: (channels, height, width) of an image.
    """
    return decide_precision(options, network, shape, BLOCK_ON_CPU, trains=False)[0]


def bfloat16_gain(
    network: Network,
    shape: tuple[int, int, int],
    batch_size: int,
    *,
    options: TrainerOptions,
    trains: bool,
    capabilities: Capabilities | None = None,
) -> float:
    """Return the speed of a network in bfloat16 as a multiple of that in float32, measured once per machine.

    Args:
        network: The network; a copy of it is measured, and random generators are restored.
        shape: (channels, height, width) of an image.
        batch_size: Number of images per batch.
        options: The keys of the `trainer` section, for the memory format.
        trains: Whether training steps are measured; False: forward passes.
        capabilities: Capabilities of the processor by torch's name; None for those of this machine.
    """
    trained = [name for name, parameter in network.named_parameters() if trains and parameter.requires_grad]
    fewest = FEWEST_TRAINED if trained else 1
    batch_size = max(fewest, min(batch_size, MOST_VALUES // math.prod(shape)))
    facts = {
        "processor": cpu_name(),
        "instructions": list(bfloat16_instructions(capabilities)),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "network": network.name,
        "structure": structure_digest(dict(network.named_children())),
        "trained": hashlib.blake2b("\n".join(trained).encode(), digest_size=8).hexdigest(),
        "channels_last": str(options.channels_last),
        "shape": list(shape),
        "batch_size": batch_size,
    }

    def measure() -> float:
        copied = copy.deepcopy(network)
        prepare_network(copied, accelerator="cpu", channels_last=options.channels_last, compile_network=False)
        with torch.random.fork_rng(devices=[]):
            return measure_gain(lambda n: network_step(copied, (n, *shape), trains=bool(trained)), batch_size, fewest)

    return measured_once("bfloat16", facts, measure)


def measure_gain(
    make_step: Callable[[int], Step],
    batch_size: int,
    fewest: int = 1,
    *,
    seconds: float = MEASUREMENT_S,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Return the median ratio of the durations of float32 steps and their neighboring bfloat16 steps.

    Args:
        make_step: Function that returns a step for a batch size.
        batch_size: The batch size; it is divided by four as long as a float32 step takes more than `SLOW_STEP_S`.
        fewest: The smallest batch size.
        seconds: Time for all steps; at least one pair is measured.
        clock: The clock, in seconds.
    """
    end = clock() + seconds

    def duration(step: Step, bfloat16: bool) -> float:
        start = clock()
        step(bfloat16)
        return clock() - start

    while True:
        step = make_step(batch_size)
        step(False)  # the first step of a shape compiles kernels
        if batch_size <= fewest or duration(step, False) <= SLOW_STEP_S:
            break
        batch_size = max(fewest, batch_size // 4)
    step(True)
    ratios: list[float] = []
    while not ratios or (len(ratios) < MOST_PAIRS and clock() < end):
        ratios.append(duration(step, False) / duration(step, True))
    return statistics.median(ratios)


def network_step(network: Network, shape: tuple[int, int, int, int], *, trains: bool) -> Step:
    """Return a step of a network on random images `(N, C, H, W)`: a forward pass, and a backward pass if it trains."""
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    if next(network.parameters()).is_contiguous(memory_format=torch.channels_last):
        images = images.contiguous(memory_format=torch.channels_last)
    network.train(trains)

    def step(bfloat16: bool) -> None:
        with torch.set_grad_enabled(trains), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            outputs: Any = network(images)
        if trains:
            outputs.float().square().mean().backward()
            network.zero_grad()

    return step
