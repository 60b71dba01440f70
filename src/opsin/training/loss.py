"""The loss: cross-entropy, or binary cross-entropy on one logit for two classes."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from opsin.errors import UserError
from opsin.training.full_precision import FullPrecision, upcast


class ClassificationLoss(FullPrecision):
    """Mean loss of a batch, for class indices or class probabilities.

    With class weights, the weighted losses are divided by the number of images, not by the weights of the batch. The
    weights of all training images have the mean 1. So the weight of an image does not depend on the other images of its
    batch, and the mean over parts of a batch, such as accumulated batches or processes, is that of the whole batch.

    Args:
        class_counts: Number of training images of each class.
        function: `auto` is binary cross-entropy on one logit for two classes, and cross-entropy otherwise.
        label_smoothing: Fraction of each target distributed evenly over all classes (arXiv:1512.00567, section 7).
        class_weights: `balanced` weights a class by N / (C * its count), as scikit-learn does, where C is the number of
            classes that have training images; the others have the weight 0.

    Attributes:
        num_logits: Number of outputs that the network needs.

    Raises:
        UserError: `function` is binary cross-entropy but there are not two classes.
    """

    def __init__(
        self,
        class_counts: Sequence[int],
        *,
        function: Literal["auto", "cross_entropy", "binary_cross_entropy"] = "auto",
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        class_weights: Literal["none", "balanced"] = "none",
    ) -> None:
        super().__init__()
        num_classes = len(class_counts)
        if function == "binary_cross_entropy" and num_classes != 2:
            raise UserError(
                f"loss.function=binary_cross_entropy needs two classes, but the dataset has {num_classes}; "
                "use loss.function=auto"
            )
        self.num_classes = num_classes
        self.num_logits = 1 if num_classes == 2 and function != "cross_entropy" else num_classes
        self.label_smoothing = label_smoothing
        counts = torch.tensor(class_counts, dtype=torch.float32)
        weight = None
        if class_weights == "balanced":
            occurs = counts > 0
            weight = torch.where(occurs, counts.sum() / (int(occurs.sum()) * counts), 0.0)
        self.register_buffer("weight", weight, persistent=False)
        self.weight: Tensor | None

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss over the images.

        Args:
            logits: `(N, num_logits)`.
            targets: Class indices `(N,)`, or class probabilities `(N, C)`, as Mixup returns.
        """
        logits = upcast(logits)
        targets = targets.to(logits.dtype) if targets.ndim == 2 else targets
        if self.num_logits == self.num_classes:
            smoothing = self.label_smoothing
            if self.weight is None:
                return F.cross_entropy(logits, targets, label_smoothing=smoothing)
            total = F.cross_entropy(logits, targets, self.weight, reduction="sum", label_smoothing=smoothing)
            return total / len(targets)
        positive = targets[:, 1] if targets.ndim == 2 else targets.to(logits.dtype)
        z, smooth = logits.squeeze(1), positive * (1 - self.label_smoothing) + self.label_smoothing / 2
        if self.weight is None:
            return F.binary_cross_entropy_with_logits(z, smooth)
        negative_weight, positive_weight = self.weight
        losses: Tensor = positive_weight * smooth * F.softplus(-z) + negative_weight * (1 - smooth) * F.softplus(z)
        return losses.mean()
