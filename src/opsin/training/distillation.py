"""Knowledge distillation: a network learns what a teacher makes of the same images."""

from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from opsin.models.network import class_logits

Weight = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class DistillationWeights:
    """How much of what is learned from the teacher, and how much from the labels.

    Attributes:
        embedding: Weight of the distance between the network's embeddings and the teacher's.
        logits: Weight of the divergence between their class probabilities; the teacher must know the same classes.
        labels: Weight of the loss on the labels; 0 learns without them.
        temperature: What logits are divided by before their probabilities are compared.
        image_size: Side of the teacher's images in pixels; null: that of its weights.
    """

    embedding: Weight = 1.0
    logits: Weight = 0.0
    labels: Weight = 1.0
    temperature: Annotated[float, Field(gt=0)] = 4.0
    image_size: Annotated[int, Field(ge=1)] | None = None

    @property
    def teach_head(self) -> bool:
        """Whether the network's head learns too; otherwise what it says means nothing."""
        return self.logits > 0 or self.labels > 0

    def __str__(self) -> str:
        terms = {"embedding": self.embedding, "logits": self.logits, "labels": self.labels}
        total = " + ".join(f"{weight:g} x {name}" for name, weight in terms.items() if weight)
        told = f"train/loss and val/loss are {total or 0}, test/loss is that on the labels"
        return told if self.teach_head else f"{told}; the head learns nothing, so accuracies say nothing"


class Distillation(nn.Module):
    """The loss of a student beside its teacher.

    Embeddings: a learned linear map takes the student's to the teacher's space, where one minus the cosine between it
    and the teacher's embedding is the distance; the teacher's are centred first, because what all images share says
    nothing (FitNets' regressor, Romero et al., arXiv:1412.6550, section 2.2, on pooled features). Logits: the
    Kullback-Leibler divergence between softened probabilities, times the square of the temperature (Hinton et al.,
    arXiv:1503.02531, section 2).

    Args:
        weights: Of the terms.
        embedding_size: Of the student's embedding.
        centre: Mean `(D,)` of the teacher's embeddings over the training images.
    """

    def __init__(self, weights: DistillationWeights, embedding_size: int, centre: Tensor) -> None:
        super().__init__()
        self.weights = weights
        self.projector = nn.Linear(embedding_size, len(centre))
        self.register_buffer("centre", centre.float())
        self.centre: Tensor

    def forward(self, embeddings: Tensor, logits: Tensor, taught: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a batch.

        Args:
            embeddings: The student's, `(N, E)`.
            logits: The student's, `(N, num_logits)`.
            taught: The teacher's embeddings, and its logits beside them where they are used, `(N, D)` or `(N, D + C)`.
            labels: The loss on the labels.
        """
        taught, size = taught.float(), len(self.centre)
        cosine = F.cosine_similarity(self.projector(embeddings).float(), taught[:, :size] - self.centre)
        loss = self.weights.embedding * (1 - cosine).mean() + self.weights.labels * labels
        if self.weights.logits:
            softened = class_logits(logits.float()) / self.weights.temperature
            wanted = class_logits(taught[:, size:]) / self.weights.temperature
            divergence = F.kl_div(
                softened.log_softmax(1), wanted.log_softmax(1), reduction="batchmean", log_target=True
            )
            loss = loss + self.weights.logits * self.weights.temperature**2 * divergence
        return loss
