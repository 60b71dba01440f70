"""The metrics of a split, collected during the epoch without slowing it and computed at its end by torchmetrics."""

import warnings
from collections.abc import Collection
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection, SumMetric
from torchmetrics.classification import MulticlassAUROC, MulticlassCalibrationError, MulticlassConfusionMatrix

from opsin.models.network import class_logits
from opsin.runs.metric_registry import ECE_BINS
from opsin.runs.per_class import class_scores
from opsin.training.full_precision import FullPrecision

FLUSH_AFTER = 8192
"""Images between updates of the metrics: one update costs as much as several steps of a small network."""

EXACT_AUROC_VALUES = 2**25
"""Number of scores (images x classes, 128 MB) up to which AUROC is exact; above, it uses 500 thresholds."""

BELOW_ONE = 1 - 2**-24
"""The largest float32 below 1."""


class CalibrationError(MulticlassCalibrationError):
    """The calibration error of torchmetrics, with a probability of exactly 1 in the last bin.

    torchmetrics puts it in one more bin, so that errors of opposite sign in the last bin do not cancel.
    """

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add probabilities `(N, C)` and class indices `(N,)`."""
        super().update(preds.clamp(max=BELOW_ONE), target)


class SplitMetrics(FullPrecision):
    """Loss, accuracy, macro F1, AUROC, calibration error and confusion matrix of one split.

    `update` only keeps references: it computes nothing and does not wait for the device. With several processes the
    states are reduced at the end, and each image counts once. Names and directions of the metrics are in
    `opsin.runs.metric_registry`.

    Args:
        num_classes: Number of classes C.
        num_images: Number of images of the split, which decides whether AUROC is exact.
        class_weights: Weights `(C,)` of the classes in the losses of the batches. The loss of the split is divided by
            the sum of the weights of its images; without weights by their number.
    """

    def __init__(self, num_classes: int, num_images: int, class_weights: Tensor | None = None) -> None:
        super().__init__()
        self._num_classes = num_classes
        self._class_weights = class_weights
        thresholds = None if num_images * num_classes <= EXACT_AUROC_VALUES else 500
        self._loss = SumMetric(nan_strategy="disable")  # NaN must show that a run diverged
        self._collection = MetricCollection(
            {
                "confusion": MulticlassConfusionMatrix(num_classes, validate_args=False),
                "auroc": MulticlassAUROC(num_classes, average=None, thresholds=thresholds, validate_args=False),
                "ece": CalibrationError(num_classes, n_bins=ECE_BINS, validate_args=False),
            },
            compute_groups=False,
        )
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []
        self._num_pending = 0

    def update(self, logits: Tensor, targets: Tensor, loss: Tensor) -> None:
        """Add one batch: logits `(N, L)`, targets `(N,)` or soft `(N, C)`, and the mean loss over its images."""
        self._pending.append((logits.detach(), targets, loss.detach()))
        self._num_pending += len(targets)
        if self._num_pending >= FLUSH_AFTER:
            self._flush()

    def compute(self) -> tuple[dict[str, float], Tensor]:
        """Return the scalar metrics by name and the confusion matrix `(C, C)`, true classes in rows, and reset.

        Without images the dict is empty and the matrix is zero.
        """
        self._flush()
        if not self._metric("confusion").update_called:
            return {}, torch.zeros(self._num_classes, self._num_classes, dtype=torch.long)
        confusion = cast("Tensor", self._metric("confusion").compute()).cpu()
        scalars = {"loss": float(self._loss.compute() / self._total_weight(confusion)), **from_confusion(confusion)}
        scalars["ece"] = float(self._metric("ece").compute())
        if (defined := (confusion.sum(1) > 0) & (confusion.sum(1) < confusion.sum())).any():
            scalars["auroc"] = float(self._auroc().cpu()[defined].mean())
        self.reset()
        return scalars, confusion

    def reset(self) -> None:
        """Discard all images."""
        self._pending, self._num_pending = [], 0
        self._loss.reset()
        self._collection.reset()

    def progress(self) -> dict[str, Any]:
        """Return the collected state as plain tensors, so that a run can resume within an epoch."""
        metrics = {name: metric.metric_state for name, metric in self._metrics()}
        updates = {name: metric._update_count for name, metric in self._metrics()}
        return {"pending": [list(batch) for batch in self._pending], "metrics": metrics, "updates": updates}

    def restore(self, progress: dict[str, Any], device: torch.device) -> None:
        """Restore the state that `progress` returned."""
        self.reset()
        for batch in progress["pending"]:
            logits, targets, loss = (value.to(device) for value in batch)
            self._pending.append((logits, targets, loss))
            self._num_pending += len(targets)
        for name, metric in self._metrics():
            for key, value in progress["metrics"][name].items():
                moved = [v.to(device) for v in value] if isinstance(value, list) else value.to(device)
                setattr(metric, key, moved)
            metric._update_count = progress["updates"][name]  # torchmetrics warns about a metric without updates

    def _total_weight(self, confusion: Tensor) -> Tensor:
        """Return the sum of the weights of all images: the confusion matrix has the number of images of each class."""
        if self._class_weights is None:
            return confusion.sum()
        return (confusion.sum(1) * self._class_weights.cpu()).sum()

    def _auroc(self) -> Tensor:
        with warnings.catch_warnings():  # about absent classes, which the mean leaves out
            warnings.simplefilter("ignore", UserWarning)
            return cast("Tensor", self._metric("auroc").compute())

    def _metric(self, name: str) -> Metric:
        return self._collection[name]

    def _metrics(self) -> list[tuple[str, Metric]]:
        return [("loss", self._loss), *((name, self._metric(name)) for name in ("confusion", "auroc", "ece"))]

    def _flush(self) -> None:
        if not self._pending:
            return
        logits, targets, losses = zip(*self._pending, strict=True)
        self._pending, self._num_pending = [], 0
        sizes = torch.tensor([len(t) for t in targets], dtype=torch.float32, device=losses[0].device)
        self._loss.update((torch.stack(losses) * sizes).sum())
        hard = torch.cat([t.argmax(1) if t.ndim == 2 else t for t in targets])
        scores = class_logits(torch.cat(logits).float())
        probabilities = scores.softmax(1)
        for name in ("confusion", "ece"):
            self._metric(name).update(probabilities, hard)
        self._metric("auroc").update(ranks(scores), hard)


def ranks(logits: Tensor) -> Tensor:
    """Return values in [0, 1] that rank images by the probability of each class, for logits `(N, C)`.

    Probabilities close to 1 are equal in float32, from a logit of about 17 on. The logarithms of their odds, of which
    these values are an increasing function, are not. A logit of -inf, which excludes a class, has the rank 0.
    """
    logs = logits.log_softmax(1)
    largest = logs.argmax(1, keepdim=True)
    others = torch.log1p(-logs.exp())  # 1 - p, whose digits are lost if p is close to 1: then the others are added up
    rest = logs.scatter(1, largest, -torch.inf).logsumexp(1, keepdim=True)
    odds = logs - others.scatter(1, largest, rest)
    finite = torch.finfo(odds.dtype).max  # softsign of infinity is NaN
    return (1 + F.softsign(odds.clamp(-finite, finite))) / 2


def undefined_metrics(measured: Collection[str]) -> tuple[str, ...]:
    """Return the metrics `<split>/<metric>` of measured splits that have no value: the AUROC of images of one class."""
    splits = [name.removesuffix("/acc") for name in measured if name.endswith("/acc")]
    return tuple(name for split in splits if (name := f"{split}/auroc") not in measured and split != "train")


def from_confusion(confusion: Tensor) -> dict[str, float]:
    """Return accuracy and macro F1 of a confusion matrix `(C, C)`; the mean leaves out absent classes."""
    scores = class_scores(confusion.numpy(), [str(i) for i in range(len(confusion))])
    occurring = [row.f1 for row in scores if row.f1 is not None]
    accuracy = float(confusion.diagonal().sum() / confusion.sum())
    return {"acc": accuracy, "f1_macro": sum(occurring) / len(occurring)}
