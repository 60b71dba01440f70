"""Precision-recall curves of val for the PR CURVES tab."""

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F

from opsin.models.network import class_logits
from opsin.training.callbacks.tensorboard_base import Count, EpochPicture, Every, Share
from opsin.training.loggers.tensorboard import TensorBoard

THRESHOLDS = 127
"""Number of thresholds; the same as in TensorBoard's own summaries."""

TAG = "pr"


class PRCurves(EpochPicture):
    """Show precision over recall on val: of each class against the rest, and of all classes together.

    Args:
        max_classes: With more classes, only the curve of all classes is shown.
        every_n_epochs: see `EpochPicture`.
        share: see `EpochPicture`.
    """

    shows_validation = True

    def __init__(self, max_classes: Count = 20, every_n_epochs: Every = None, share: Share = 0.005) -> None:
        super().__init__(every_n_epochs, share)
        self.max_classes = max_classes

    def draw(self, board: TensorBoard | None, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> None:
        """Count the `outputs` of the module over all processes, and write the curves."""
        data, outputs = self.images(trainer), getattr(pl_module, "outputs", {}).get("val")
        if data is None or not outputs:
            return
        positions = torch.cat([batch for batch, _ in outputs]).cpu()
        probabilities = class_logits(torch.cat([batch for _, batch in outputs]).float()).softmax(1)
        targets = torch.from_numpy(data.subset("val").targets)[positions].to(probabilities.device)
        counts = threshold_counts(probabilities, targets)
        if trainer.world_size > 1:
            counts = trainer.strategy.reduce(counts, reduce_op="sum")
        if board is None:
            return
        counts, classes = counts.cpu(), data.source.classes
        _write(board, f"{TAG}/all classes", counts.sum(0), step)
        if len(classes) <= self.max_classes:
            for name, own in zip(classes, counts, strict=True):
                _write(board, f"{TAG}/{name}", own, step)


def threshold_counts(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Return true and false positives and negatives of each class at evenly spaced thresholds in [0, 1].

    Args:
        probabilities: `(N, C)`; an image counts as predicted if its probability reaches the threshold.
        targets: `(N,)`.

    Returns:
        Counts `(C, 4, THRESHOLDS)`: true positives, false positives, true negatives, false negatives.
    """
    number = probabilities.shape[1]
    # The bin of a probability is the highest threshold that it reaches; a cumulative sum from above gives all counts.
    bins = (probabilities * (THRESHOLDS - 1)).floor().long().clamp(0, THRESHOLDS - 1)
    places = bins + torch.arange(number, device=bins.device) * THRESHOLDS
    belongs = F.one_hot(targets, number).bool()
    length = number * THRESHOLDS
    inside = torch.bincount(places[belongs], minlength=length).view(number, THRESHOLDS)
    outside = torch.bincount(places[~belongs], minlength=length).view(number, THRESHOLDS)
    true_positives, false_positives = (part.flip(1).cumsum(1).flip(1) for part in (inside, outside))
    false_negatives = true_positives[:, :1] - true_positives
    true_negatives = false_positives[:, :1] - false_positives
    return torch.stack([true_positives, false_positives, true_negatives, false_negatives], dim=1)


def _write(board: TensorBoard, tag: str, counts: Tensor, step: int) -> None:
    """Write one curve of counts `(4, THRESHOLDS)`; without predictions, precision is 0 as in TensorBoard."""
    true_positives, false_positives, true_negatives, false_negatives = counts.double()
    precision = true_positives / (true_positives + false_positives).clamp(min=1)
    recall = true_positives / (true_positives + false_negatives).clamp(min=1)
    rows = (true_positives, false_positives, true_negatives, false_negatives, precision, recall)
    board.experiment.add_pr_curve_raw(tag, *(row.numpy() for row in rows), step, num_thresholds=THRESHOLDS)
