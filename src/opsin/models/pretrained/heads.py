"""The heads of pretrained networks: the layers after the last stage, chosen by `model.head`."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, Protocol

from torch import nn

from opsin.models.network import Network, Rate, Width

HeadKind = Literal["linear", "dense", "original"]
"""`linear`: features to logits. `dense`: a dense layer with ReLU and dropout between them. `original`: the layers of
the published network between them, such as the two dense layers of VGG and AlexNet, or a dropout layer."""

HEAD_ARGUMENTS = """
Args:
    num_logits: Number of outputs.
    image_size: (height, width) in pixels.
    in_channels: Channels of the images.
    head: `linear`: features to logits; `dense`: a dense layer with ReLU and dropout between them; `original`: the
        layers of the published network between them.
    head_units: Units of the dense layer of `dense`.
    head_dropout: Dropout probability after that layer.
"""
"""The arguments of every pretrained network, for its docstring."""

NEW_LAYERS = ("head.fc.", "head.fc1.", "head.fc2.", "head.new_")
"""Beginnings of the keys of the layers of `Head`; a prefix keeps them apart from layers of a neck."""


@dataclass(frozen=True)
class Head:
    """Options of a head.

    Attributes:
        kind: `linear`, `dense` or `original`.
        units: Number of units of the dense layer.
        dropout: Dropout probability after the dense layer.
    """

    kind: HeadKind = "linear"
    units: Width = 256
    dropout: Rate = 0.5

    def layers(
        self,
        features: int,
        num_logits: int,
        linear: nn.Module | None = None,
        before_linear: Mapping[str, nn.Module] = MappingProxyType({}),
    ) -> dict[str, nn.Module]:
        """Return new layers, by name, from features `(N, features)` to logits `(N, num_logits)`.

        Args:
            features: Number of inputs.
            num_logits: Number of outputs.
            linear: The last layer of the original network, so that pretrained weights can be loaded into it.
            before_linear: The layers of the original network before it, for the head `original`.
        """
        if self.kind != "dense":
            fc = linear or nn.Linear(features, num_logits)
            for layer in fc.modules():  # some libraries draw from +-1 for one logit, which is too large for a new head
                if reset := getattr(layer, "reset_parameters", None):
                    reset()
            return {**before_linear, "fc": fc} if self.kind == "original" else {"fc": fc}
        return {
            "fc1": nn.Linear(features, self.units),
            "relu": nn.ReLU(),
            "dropout": nn.Dropout(self.dropout),
            "fc2": nn.Linear(self.units, num_logits),
        }


class Backbone(Protocol):
    """A network function; see `Head` for the last three parameters."""

    __name__: str

    def __call__(
        self,
        *,
        num_logits: int,
        image_size: tuple[int, int],
        in_channels: int = 3,
        head: HeadKind = "linear",
        head_units: Width = 256,
        head_dropout: Rate = 0.5,
    ) -> Network:
        """Return the network for images of (height, width) pixels."""
        ...
