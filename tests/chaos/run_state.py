"""Compare a disturbed run with an undisturbed one, bit by bit."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from opsin.runs.directory import RunDirectory

COMPARED = (
    "weights and optimizer of best and last, metrics.csv, predictions, metrics, TensorBoard steps and values, train.log"
)
"""Everything that `differences` compares."""

MEASURED = ("throughput", "seconds", "images_per_second", "memory")
"""Parts of the names of curves that measure time or memory, of which only the steps are compared."""


def differences(run: Path, whole: Path) -> list[str]:
    """Return the names of the parts in which a run differs from an undisturbed one; empty if they are identical.

    Args:
        run: Directory of the disturbed and resumed run.
        whole: Directory of the undisturbed run.
    """
    one, other = RunDirectory(run), RunDirectory(whole)
    found = []
    for checkpoint in ("best", "last"):
        files = [getattr(each, checkpoint) for each in (one, other)]
        if not all(file.is_file() for file in files):
            found.append(f"{checkpoint}.ckpt missing")
            continue
        states = [torch.load(file, weights_only=True, map_location="cpu") for file in files]
        found += [f"{checkpoint}: {key}" for key in ("state_dict", "optimizer_states", "lr_schedulers")
                  if not _same(states[0].get(key), states[1].get(key))]  # fmt: skip
    texts = [each.metrics.read_text() if each.metrics.is_file() else "" for each in (one, other)]
    found += ["metrics.csv"] if texts[0] != texts[1] else []
    for split in ("val", "test"):
        if not _same(*(_predictions(each / "predictions" / f"{split}.npz") for each in (run, whole))):
            found.append(f"predictions of {split}")
    results = [each.read_result() for each in (one, other)]
    if results[0].status != results[1].status:
        found.append(f"status {results[0].status}")
    if results[0].metrics != results[1].metrics:
        found.append("metrics of result.json")
    return found + _curve_differences(run, whole) + log_differences(run, whole)


def _same(one: Any, other: Any) -> bool:
    """Return whether two nested values are equal, tensors and arrays bit for bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _predictions(file: Path) -> dict[str, np.ndarray] | None:
    if not file.is_file():
        return None
    with np.load(file) as content:
        return {name: content[name] for name in content}


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the curves of a run as TensorBoard shows them: steps and values by name."""
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def _curve_differences(run: Path, whole: Path) -> list[str]:
    if not (whole / "tensorboard").is_dir():
        return []
    one, other = curves(run), curves(whole)
    found = [f"TensorBoard: {tag} missing" for tag in other.keys() - one.keys()]
    for tag in one.keys() & other.keys():
        measured = any(part in tag for part in MEASURED)
        values = [[(step, None if measured else value) for step, value in each[tag]] for each in (one, other)]
        if values[0] != values[1]:
            found.append(f"TensorBoard: {tag}")
    return found


def log_differences(run: Path, whole: Path) -> list[str]:
    """Return the lines of epochs that train.log has too often or not at all."""
    one, other = (_log_lines(each) for each in (run, whole))
    return [
        f"train.log: {line} {one[line]} times" for line in sorted(one.keys() | other.keys()) if one[line] != other[line]
    ]


def _log_lines(run: Path) -> Counter[str]:
    text = (run / "train.log").read_text() if (run / "train.log").is_file() else ""
    return Counter(re.findall(r"epoch +[\d.]+/\d+", text))
