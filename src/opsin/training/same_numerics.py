"""Whether a resumed run computes the same bits as its earlier processes: the order of sums depends on the machine."""

import os
from typing import Any

from opsin.runs.result import RunResult, Settings
from opsin.training.hardware import Threads
from opsin.training.trainer import TrainerOptions

ROUNDING = ("accelerator", "devices", "precision", "channels_last", "compile", "threads")
"""Settings that change how values are rounded."""


def resumed_threads(options: TrainerOptions, earlier: Settings | None) -> Threads:
    """Return the CPU threads of a run: with `auto`, a resume on the same number of devices keeps the recorded number.

    Args:
        options: The keys of the `trainer` section.
        earlier: The recorded settings of the earlier processes; None for a new run.
    """
    if options.threads != "auto" or earlier is None or earlier.devices != options.devices:
        return options.threads
    return earlier.threads


def resume_warnings(earlier: RunResult, now: RunResult) -> list[str]:
    """Return lines about a resume that is not bit-identical to an uninterrupted run, or that this machine slows down.

    Args:
        earlier: The result of the earlier processes.
        now: The result of this process.
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
    if now.settings and now.settings.accelerator == "cpu" and now.settings.threads > cores:
        lines.append(
            f"the run keeps its {now.settings.threads} CPU threads, and this machine has {cores} cores: "
            f"trainer.threads={cores} is faster, but not bit-identical"
        )
    return lines


def _facts(result: RunResult) -> dict[str, Any]:
    settings, hardware = result.settings, result.hardware
    facts = {f"trainer.{name}": getattr(settings, name, None) for name in ROUNDING}
    if settings and settings.accelerator == "cpu":
        facts["the processor"] = hardware.cpu if hardware else None
    else:
        del facts["trainer.threads"]  # a GPU computes the sums
        facts["the GPU"] = ", ".join(hardware.gpus) if hardware else None
    facts["torch"] = result.versions.get("torch")
    return facts
