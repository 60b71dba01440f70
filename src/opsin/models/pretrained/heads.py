"""The head of a pretrained network: what comes after its last stage, by `model.head`."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from opsin.models.network import Rate, Width

HeadKind = Literal["linear", "dense"]
"""`linear`: features to logits. `dense`: a dense layer with ReLU and dropout between them."""


@dataclass(frozen=True)
class Head:
    """Which head a network gets.

    Attributes:
        kind: `linear` or `dense`.
        units: Of the dense layer.
        dropout: After the dense layer, in training.
    """

    kind: HeadKind = "linear"
    units: Width = 256
    dropout: Rate = 0.5

    def layers(self, features: int, num_logits: int, linear: nn.Linear | None = None) -> dict[str, nn.Module]:
        """Return the layers that make logits `(N, num_logits)` of features `(N, features)`, new ones, by name.

        Args:
            features: How many come in.
            num_logits: How many go out.
            linear: The original network's own last layer, so that its weights can be loaded where they fit.
        """
        if self.kind == "linear":
            fc = linear or nn.Linear(features, num_logits)
            fc.reset_parameters()  # some libraries draw from +-1 for one logit: far too sure for a new head
            return {"fc": fc}
        return {
            "fc1": nn.Linear(features, self.units),
            "relu": nn.ReLU(),
            "dropout": nn.Dropout(self.dropout),
            "fc2": nn.Linear(self.units, num_logits),
        }
