"""Knowledge distillation: a network learns from the outputs of a teacher on the same images."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from opsin.models.network import class_logits
from opsin.training.full_precision import FullPrecision, upcast

Weight = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class DistillationWeights:
    """Weights of the terms of the loss with a teacher.

    Attributes:
        embedding: Weight of the distance between the network's embeddings and the teacher's.
        logits: Weight of the divergence between their class probabilities; the teacher must know the same classes.
        labels: Weight of the loss on the labels; 0 trains without labels.
        temperature: Divisor of the logits before their probabilities are compared.
        image_size: Side of the teacher's images in pixels; null: the size of its weights.
    """

    embedding: Weight = 1.0
    logits: Weight = 0.0
    labels: Weight = 1.0
    temperature: Annotated[float, Field(gt=0)] = 4.0
    image_size: Annotated[int, Field(ge=1)] | None = None

    @property
    def trains_head(self) -> bool:
        """Whether the head of the network trains; otherwise its predictions are meaningless."""
        return self.logits > 0 or self.labels > 0

    def __str__(self) -> str:
        terms = {"embedding": self.embedding, "logits": self.logits, "labels": self.labels}
        total = " + ".join(f"{weight:g} x {name}" for name, weight in terms.items() if weight)
        text = f"train/loss and val/loss are {total or 0}, test/loss is the loss on the labels"
        return text if self.trains_head else f"{text}; the head does not train, so accuracies are meaningless"


class Distillation(FullPrecision):
    """The loss of a student with a teacher.

    Embeddings: a learned linear map projects the student's embedding to the teacher's space; the distance is one minus
    the cosine similarity. The teacher's embeddings are centered first, because their mean carries no information
    (FitNets' regressor, Romero et al., arXiv:1412.6550, section 2.2, on pooled features). Logits: the
    Kullback-Leibler divergence between softened probabilities, times the square of the temperature (Hinton et al.,
    arXiv:1503.02531, section 2).

    Args:
        weights: Weights of the terms.
        embedding_size: Size E of the student's embedding.
        center: Mean `(D,)` of the teacher's embeddings over the training images.
    """

    def __init__(self, weights: DistillationWeights, embedding_size: int, center: Tensor) -> None:
        super().__init__()
        self.weights = weights
        self.projector = nn.Linear(embedding_size, len(center))
        self.register_buffer("center", center.float())
        self.center: Tensor

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Distillation":
        self.projector._apply(fn)  # type: ignore[no-untyped-call]  # it has the precision of the embeddings
        super()._apply(fn, recurse)
        return self

    def forward(self, embeddings: Tensor, logits: Tensor, teacher_outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of a batch.

        Args:
            embeddings: Embeddings of the student, `(N, E)`.
            logits: Logits of the student, `(N, num_logits)`.
            teacher_outputs: Embeddings of the teacher, then its logits if they are used: `(N, D)` or `(N, D + C)`.
            labels: The loss on the labels.
        """
        teacher_outputs, size = teacher_outputs.to(self.center.dtype), len(self.center)
        cosine = F.cosine_similarity(upcast(self.projector(embeddings)), teacher_outputs[:, :size] - self.center)
        loss = self.weights.embedding * (1 - cosine).mean() + self.weights.labels * labels
        if self.weights.logits:
            softened = class_logits(upcast(logits)) / self.weights.temperature
            softened_teacher = class_logits(teacher_outputs[:, size:]) / self.weights.temperature
            divergence = F.kl_div(
                softened.log_softmax(1), softened_teacher.log_softmax(1), reduction="batchmean", log_target=True
            )
            loss = loss + self.weights.logits * self.weights.temperature**2 * divergence
        return loss
