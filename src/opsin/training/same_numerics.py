"""Whether a later process of a run computes the same bits as its earlier ones.

The order of sums depends on the machine, and `auto` values do too: a resume, an evaluation and a prediction take those
that the run recorded.
"""

import os
from dataclasses import replace
from typing import Any

from opsin.runs.cpu_cores import available_cores
from opsin.runs.result import ROUNDING_SETTINGS, RunResult, Settings
from opsin.training.accelerator import num_devices, usable_accelerator
from opsin.training.precision import BY_LIGHTNING_NAME, Capabilities, bfloat16_instructions
from opsin.training.trainer import TrainerOptions

EMULATED = (
    "the run keeps its precision bfloat16, for which this processor has no instructions: trainer.precision=32 is "
    "faster, but not bit-identical"
)
"""Message about a run that chose bfloat16 on another processor."""


def resumed_options(options: TrainerOptions, earlier: Settings | None) -> TrainerOptions:
    """Return the options of a resumed run: the recorded number of threads and precision replace `auto`.

    The number of threads is kept on the same number of devices, the precision on the same kind of accelerator.

    Args:
        options: The keys of the `trainer` section.
        earlier: The recorded settings of the earlier processes; None for a new run.
    """
    if earlier is None:
        return options
    devices = num_devices(options.accelerator, options.devices, options.num_nodes)
    if options.threads == "auto" and earlier.devices == devices:
        options = replace(options, threads=earlier.threads)
    return _with_recorded_precision(options, earlier)


def evaluation_options(options: TrainerOptions, recorded: Settings | None) -> TrainerOptions:
    """Return the options for an evaluation of a run, which repeats the recorded predictions on the same machine.

    The precision is kept on the same kind of accelerator. The number of threads is kept on a CPU if the run had one
    device and the machine has at least as many cores.

    Args:
        options: The keys of the `trainer` section.
        recorded: The recorded settings of the run; None if it ended before they were known.
    """
    if recorded is None:
        return options
    on_cpu = usable_accelerator(options.accelerator) == "cpu" and recorded.accelerator == "cpu"
    if options.threads == "auto" and on_cpu and recorded.devices == 1 and 1 <= recorded.threads <= available_cores():
        options = replace(options, threads=recorded.threads)
    return _with_recorded_precision(options, recorded)


def _with_recorded_precision(options: TrainerOptions, recorded: Settings) -> TrainerOptions:
    accelerator = usable_accelerator(options.accelerator)
    kind = "cuda" if accelerator == "gpu" else accelerator
    known = BY_LIGHTNING_NAME.get(recorded.precision)
    if options.precision != "auto" or kind != recorded.accelerator or known is None:
        return options
    return replace(options, precision=known)


def resume_warnings(earlier: RunResult, now: RunResult, capabilities: Capabilities | None = None) -> list[str]:
    """Return lines about a resume that is not bit-identical to an uninterrupted run, or that this machine slows down.

    Args:
        earlier: The result of the earlier processes.
        now: The result of this process.
        capabilities: Capabilities of the processor by torch's name; None for those of this machine.
    """
    before, after = _facts(earlier), _facts(now)
    changed = [
        f"{name} was {before.get(name)}, and now it is {after[name]}"
        for name in after
        if before.get(name) != after[name]
    ]
    lines = []
    if changed:
        lines.append(f"the result is not bit-identical to that of an uninterrupted run: {'; '.join(changed)}")
    cores = os.cpu_count() or 1
    on_cpu = now.settings is not None and now.settings.accelerator == "cpu"
    if now.settings and on_cpu and now.settings.threads > cores:
        lines.append(
            f"the run keeps its {now.settings.threads} CPU threads, and this machine has {cores} cores: "
            f"trainer.threads={cores} is faster, but not bit-identical"
        )
    decided = now.precision_auto
    if on_cpu and decided and decided.precision == "bf16" and not bfloat16_instructions(capabilities):
        lines.append(EMULATED)
    return lines


def is_emulated(options: TrainerOptions, capabilities: Capabilities | None = None) -> bool:
    """Return whether a processor without instructions for bfloat16 computes in it, which is slow.

    Args:
        options: The keys of the `trainer` section, with the precision resolved.
        capabilities: Capabilities of the processor by torch's name; None for those of this machine.
    """
    on_cpu = usable_accelerator(options.accelerator) == "cpu"
    return on_cpu and options.precision == "bf16" and not bfloat16_instructions(capabilities)


def _facts(result: RunResult) -> dict[str, Any]:
    settings, hardware = result.settings, result.hardware
    facts = {f"trainer.{name}": getattr(settings, name, None) for name in ROUNDING_SETTINGS}
    if settings and settings.accelerator == "cpu":
        facts["the processor"] = hardware.cpu if hardware else None
    else:
        del facts["trainer.threads"]  # a GPU computes the sums
        facts["the GPU"] = ", ".join(hardware.gpus) if hardware else None
    facts["torch"] = result.versions.get("torch")
    return facts
