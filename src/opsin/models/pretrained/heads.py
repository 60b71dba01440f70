"""The heads of pretrained networks: the layers after the last stage, chosen by `model.head`."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from opsin.models.network import Rate, Width

HeadKind = Literal["linear", "dense"]
"""`linear`: features to logits. `dense`: a dense layer with ReLU and dropout between them."""

HEAD_ARGUMENTS = """
Args:
    num_logits: Number of outputs.
    image_size: (height, width) in pixels.
    in_channels: Channels of the images.
    head: `linear`: features to logits; `dense`: a dense layer with ReLU and dropout between them.
    head_units: Units of the dense layer of `dense`.
    head_dropout: Dropout probability after that layer.
"""
"""The arguments of every pretrained network, for its docstring."""


@dataclass(frozen=True)
class Head:
    """Options of a head.

    Attributes:
        kind: `linear` or `dense`.
        units: Number of units of the dense layer.
        dropout: Dropout probability after the dense layer.
    """

    kind: HeadKind = "linear"
    units: Width = 256
    dropout: Rate = 0.5

    def layers(self, features: int, num_logits: int, linear: nn.Linear | None = None) -> dict[str, nn.Module]:
        """Return new layers, by name, from features `(N, features)` to logits `(N, num_logits)`.

        Args:
            features: Number of inputs.
            num_logits: Number of outputs.
            linear: The last layer of the original network, so that pretrained weights can be loaded into it.
        """
        if self.kind == "linear":
            fc = linear or nn.Linear(features, num_logits)
            fc.reset_parameters()  # some libraries draw from +-1 for one logit, which is too large for a new head
            return {"fc": fc}
        return {
            "fc1": nn.Linear(features, self.units),
            "relu": nn.ReLU(),
            "dropout": nn.Dropout(self.dropout),
            "fc2": nn.Linear(self.units, num_logits),
        }
