"""Checks that compute metrics and predictions again."""

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch

from opsin.commands.evaluate import measure_opened
from opsin.commands.verify.checks import Check, compared, missing
from opsin.errors import UserError
from opsin.evaluation.calibration import calibrate
from opsin.inference.opened_run import OpenedRun
from opsin.runs.digests import read_digests
from opsin.runs.per_class import read_scores
from opsin.runs.predictions import Predictions, predictions_file, read_predictions
from opsin.runs.result import RunResult, Settings
from opsin.runs.training_record import check_threads
from opsin.training import build
from opsin.training.metrics import SplitMetrics
from opsin.training.recording import hardware, versions

Split = Literal["val", "test"]
SPLITS: tuple[Split, Split] = ("test", "val")

METRIC_TOLERANCE = 1e-4
"""Largest relative difference of a metric from the one that the saved predictions give: sums of float32 are rounded."""

COUNTED, COUNT_TOLERANCE = ("/acc", "/f1_macro"), 1e-6
"""Metrics that follow from the confusion matrix, and their largest relative difference: one rounding to float32."""

LOGIT_TOLERANCE = 0.02
"""Largest difference of logits on another machine, as a share of the largest logit: bfloat16 has 8 bits."""

OTHER_MACHINE_TOLERANCE = 0.02
"""Largest difference of a metric that is measured again on another machine."""


def check_data(opened: OpenedRun) -> Check:
    """Compare all images and labels, and how they are split, with their fingerprint in result.json."""
    try:
        data = build.data(opened.plan, image_format=opened.data_facts.image_format)
        data.setup("fit")
        facts = data.facts()
    except (UserError, OSError) as error:
        return missing("data", error)
    counts = ", ".join(f"{count:,} {split}" for split, count in facts["counts"].items())
    same = facts["fingerprint"] == opened.data_facts.fingerprint
    differences = [] if same else ["images, labels or splits are not those of the run"]
    return compared("data", differences, f"{counts}: images, labels and splits as recorded")


def check_metrics(opened: OpenedRun, result: RunResult, split: Split) -> Check:
    """Compute the metrics of a split from its saved predictions, and compare them with result.json."""
    name, run = f"metrics: {split}", opened.directory
    recorded = {n: value for n, value in result.metrics.items() if n.startswith(f"{split}/")}
    file = predictions_file(run, split)
    if not recorded and not file.is_file():
        return Check(name, "none", f"the run has no metrics of {split}")
    try:
        predictions, scores, digests = read_predictions(run, split), read_scores(run, split), read_digests(run.path)
    except UserError as error:
        return missing(name, error)
    try:
        computed, confusion = _metrics(opened, predictions)
    except (LookupError, RuntimeError, ValueError) as error:
        return Check(name, "differs", f"the predictions do not fit the classes ({error})")
    left_out = [n for n in recorded if n not in computed]
    differences = [
        f"{n} is {recorded.get(n)} in result.json and {computed.get(n)} from the predictions"
        for n in sorted({*recorded, *computed} - set(left_out))
        if not _close(recorded.get(n), computed.get(n), COUNT_TOLERANCE if n.endswith(COUNTED) else METRIC_TOLERANCE)
    ]
    if scores is not None and not np.array_equal(scores.confusion, confusion.numpy()):
        differences.append("the confusion matrix differs from the predictions")
    if split == "val":
        differences += _differences_of_calibration(result, predictions)
    note = f" (not {', '.join(left_out)})" if left_out else ""
    if differences and digests and split in digests.evaluated:
        return missing(name, f"the predictions were written after the run, by an evaluation: {differences[0]}")
    return compared(name, differences, f"{len(computed)} metrics follow from {len(predictions):,} predictions{note}")


def _metrics(opened: OpenedRun, predictions: Predictions) -> tuple[dict[str, float], torch.Tensor]:
    """Return the metrics of predictions, by name, and their confusion matrix.

    With a teacher the loss of val is left out, because it does not follow from the predictions.
    """
    loss = opened.plan.loss.build(class_counts=opened.data_facts.class_counts["train"])
    logits = torch.from_numpy(predictions.logits)
    logits = logits[:, 1:] - logits[:, :1] if loss.num_logits == 1 else logits
    targets = torch.from_numpy(predictions.targets)
    metrics = SplitMetrics(len(predictions.classes), opened.data_facts.counts[predictions.split], loss.weight)
    metrics.update(logits, targets, loss(logits, targets))
    scalars, confusion = metrics.compute()
    if predictions.split == "val" and opened.plan.fine_tuning.teacher is not None:
        scalars.pop("loss")
    return {f"{predictions.split}/{name}": value for name, value in scalars.items()}, confusion


def _differences_of_calibration(result: RunResult, predictions: Predictions) -> list[str]:
    recorded, fitted = result.calibration, calibrate(predictions.logits, predictions.targets)
    if recorded is None or _close(recorded.temperature, fitted.temperature, METRIC_TOLERANCE):
        return []
    return [f"the temperature is {recorded.temperature} in result.json and {fitted.temperature} from the predictions"]


def check_predictions(opened: OpenedRun, result: RunResult, split: Split) -> Check:
    """Compute the predictions of a split from best.ckpt and the images, and compare them with the saved ones.

    On the same kind of machine they are the same bit for bit, elsewhere within `LOGIT_TOLERANCE`.
    """
    name, run = f"predictions: {split}", opened.directory
    if not any(n.startswith(f"{split}/") for n in result.metrics) and not predictions_file(run, split).is_file():
        return Check(name, "none", f"the run has no metrics of {split}")
    settings = result.settings or Settings()
    try:
        saved = read_predictions(run, split)
        check_threads(settings)
        found, computed = measure_opened(opened, split)
    except UserError as error:
        return missing(name, error)
    reason = _inexact(result, split)
    differences = list(_differences_of_predictions(saved, computed, exact=reason is None))
    tolerance = METRIC_TOLERANCE if reason is None else OTHER_MACHINE_TOLERANCE
    differences += [
        f"{n} is {result.metrics[n]} in result.json and {value} measured again"
        for n, value in sorted(found.metrics.items())
        if n in result.metrics
        and not (n == "val/loss" and settings.teacher)
        and not _close(result.metrics[n], value, tolerance)
    ]
    how = "bit for bit" if reason is None else f"within {LOGIT_TOLERANCE:.0%} of the largest logit ({reason})"
    return compared(name, differences, f"{len(saved):,} images: best.ckpt gives the same logits {how}")


def _differences_of_predictions(saved: Predictions, computed: Predictions, exact: bool) -> Iterator[str]:
    for what in ("classes", "images"):
        if getattr(saved, what) != getattr(computed, what):
            yield f"the {what} differ from those of the data"
    for what in ("positions", "targets"):
        if not np.array_equal(getattr(saved, what), getattr(computed, what)):
            yield f"the {what} differ from those of the data"
    if saved.logits.shape != computed.logits.shape:
        yield f"the saved logits have the shape {saved.logits.shape}, the computed ones {computed.logits.shape}"
        return
    finite = computed.logits[np.isfinite(computed.logits)]
    limit = 0.0 if exact else LOGIT_TOLERANCE * float(np.abs(finite).max(initial=0))
    equal = saved.logits == computed.logits  # -inf, which excludes a class, too
    wide = saved.logits.astype(np.float64)
    apart = np.abs(np.subtract(wide, computed.logits, out=np.zeros_like(wide), where=~equal)).max(axis=1, initial=0)
    both_nan = np.isnan(saved.logits).any(axis=1) & np.isnan(computed.logits).any(axis=1)
    wrong = np.flatnonzero(~(apart <= limit) & ~both_nan)
    if len(wrong):
        first = saved.paths[wrong[0]]
        yield f"the logits of {len(wrong):,} images differ by up to {apart[wrong].max():.3g}, such as {first}"


def _inexact(result: RunResult, split: Split) -> str | None:
    """Return why the logits may be rounded differently now; None if they are the same bit for bit."""
    settings = result.settings or Settings()
    if split == "val" and not settings.feature_cache.startswith("off"):
        return "the run validated on cached features"
    if settings.devices > 1:
        return f"the run used {settings.devices} processes"
    if settings.accelerator != "cpu" or settings.compile:
        return f"{'compiled code' if settings.compile else settings.accelerator} rounds differently from run to run"
    machine = result.hardware
    return other_machine(machine.cpu if machine else "", result.versions.get("torch", ""))


def other_machine(cpu: str, torch_version: str) -> str | None:
    """Return how this machine differs from the one of a run; None if it computes the same bits."""
    if (here := hardware().cpu) != cpu:
        return f"trained on {cpu or 'an unknown processor'}, verified on {here}"
    if (installed := versions()["torch"]) != torch_version:
        return f"trained with torch {torch_version}, verified with {installed}"
    return None


def _close(a: Any, b: Any, tolerance: float) -> bool:
    if a is None or b is None:
        return a is b
    return bool(math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)) or (math.isnan(a) and math.isnan(b))
