"""Precision: bfloat16 where the device has instructions for it and the network gains from them."""

import os
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch

from opsin.runs.result import PrecisionResult

Precision = Literal["auto", "32", "bf16", "16", "bf16-true", "64", 32, 16, 64]

LIGHTNING_PRECISION: dict[str, Any] = {
    "32": "32-true",
    "64": "64-true",
    "bf16": "bf16-mixed",
    "16": "16-mixed",
    "bf16-true": "bf16-true",
}
"""Lightning's name of each precision."""

BY_LIGHTNING_NAME: dict[str, Precision] = {name: ours for ours, name in LIGHTNING_PRECISION.items()}  # type: ignore[misc]
"""The precision of each name of Lightning."""

FAST_INSTRUCTIONS = {"amx_bf16": "AMX_BF16", "avx512_bf16": "AVX512_BF16"}
"""Instructions of x86 processors with which torch multiplies bfloat16 faster than float32, by torch's name."""

POSSIBLE_INSTRUCTIONS = {"sve_bf16": "SVE BF16", "bf16": "NEON BF16 (asimdbf16)"}
"""Instructions of ARM processors, by torch's name. torch uses them for some operations only. Without a measurement, the
precision is therefore float32. Apple's processors from M2 on have them too."""

LEAST_GAIN = 1.1
"""Ratio of speeds from which bfloat16 is taken. Below it, float32 is taken, because it is more exact."""

ISA_VARIABLE = "ONEDNN_MAX_CPU_ISA"
"""Environment variable that limits the instructions of oneDNN, which computes the layers of networks on x86."""

Capabilities = Mapping[str, Any]


def resolve_precision(
    precision: Precision,
    accelerator: str,
    *,
    measure: Callable[[], float] | None = None,
    capabilities: Capabilities | None = None,
) -> PrecisionResult:
    """Return the precision of a run, an evaluation, a prediction or a feature extraction, and the reason.

    A resume and an evaluation of a run keep the precision that the run recorded, on the same kind of accelerator
    (`opsin.training.same_numerics`).

    An explicit value is taken. `auto` is bfloat16 autocast on CUDA from Ampere on, and float32 on MPS. On a CPU with
    instructions for bfloat16 a measurement decides; without a measurement it is bfloat16 on x86 processors and float32
    on ARM processors. On a CPU without such instructions it is float32. The measurement is in
    `opsin.training.precision_timing`: it chooses float32 for a network whose gradients torch computes wrongly in
    bfloat16, and it does not measure a run of several processes.

    Args:
        precision: The key `trainer.precision`.
        accelerator: `cpu`, `gpu` or `mps`.
        measure: Function that returns the speed of the network in bfloat16 as a multiple of that in float32; called on
            a CPU with instructions for bfloat16 only. None: no measurement.
        capabilities: Capabilities of the processor by torch's name; None for those of this machine.
    """
    if precision != "auto":
        return PrecisionResult(str(precision), "trainer.precision sets it")
    if accelerator == "gpu":
        if torch.cuda.get_device_capability() >= (8, 0):
            return PrecisionResult("bf16", "the GPU has matrix units for bfloat16")
        return PrecisionResult("32", "the GPU has no matrix units for bfloat16")
    if accelerator != "cpu":
        return PrecisionResult("32", "bfloat16 is not faster on MPS")
    return _on_cpu(measure, capabilities)


def lightning_precision(precision: Precision, accelerator: str) -> str:
    """Return the name of Lightning for the precision in which an accelerator computes.

    Args:
        precision: The key `trainer.precision`.
        accelerator: `cpu`, `gpu` or `mps`.
    """
    name = str(LIGHTNING_PRECISION[resolve_precision(precision, accelerator).precision])
    # As Lightning does: autocast on a CPU has no float16.
    return "bf16-mixed" if (name, accelerator) == ("16-mixed", "cpu") else name


def _on_cpu(measure: Callable[[], float] | None, capabilities: Capabilities | None) -> PrecisionResult:
    names = bfloat16_instructions(capabilities)
    if not names:
        return PrecisionResult("32", "the processor has no instructions for bfloat16")
    text = ", ".join(names)
    if measure is None:
        fast = any(name in FAST_INSTRUCTIONS.values() for name in names)
        return PrecisionResult("bf16" if fast else "32", f"the processor has {text}; not measured")
    gain = measure()
    gains = gain >= LEAST_GAIN
    needed = "" if gains else f", less than the required {LEAST_GAIN:g} times"
    reason = f"on this processor, with {text}, this network is {gain:.2f} times as fast in bfloat16{needed}"
    return PrecisionResult("bf16" if gains else "32", reason, round(gain, 3))


def bfloat16_instructions(capabilities: Capabilities | None = None) -> tuple[str, ...]:
    """Return the names of the instructions for bfloat16 of a processor, the fastest first.

    Args:
        capabilities: Capabilities of the processor by torch's name; None for those of this machine.
    """
    found = machine_capabilities() if capabilities is None else capabilities
    return tuple(text for name, text in {**FAST_INSTRUCTIONS, **POSSIBLE_INSTRUCTIONS}.items() if found.get(name))


def machine_capabilities() -> Capabilities:
    """Return the capabilities of this processor by torch's name, without those that ONEDNN_MAX_CPU_ISA turns off."""
    limit = os.environ.get(ISA_VARIABLE, "ALL").upper()
    hidden = {"ALL": (), "DEFAULT": ()}.get(limit, [name for name in FAST_INSTRUCTIONS if not _allows(limit, name)])
    return {name: value for name, value in torch.cpu.get_capabilities().items() if name not in hidden}


def _allows(limit: str, name: str) -> bool:
    """Return whether a value of ONEDNN_MAX_CPU_ISA, such as AVX512_CORE_BF16, includes some instructions."""
    if name == "amx_bf16":
        return "AMX" in limit
    return any(newer in limit for newer in ("BF16", "FP16", "AVX10", "AMX"))
