"""Convert a network of another library to named stages and a new head, and record the keys of the library."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

from torch import nn

from opsin.models.auxiliary_head import Auxiliary
from opsin.models.network import Network, adopt_modules, sequential
from opsin.models.pretrained.heads import Head
from opsin.models.shapes import feature_shape
from opsin.models.weights import Kind, Weights


@dataclass(frozen=True)
class NetworkParts:
    """The parts of a network of another library.

    Attributes:
        stages: The stages by name, in order.
        neck: Modules, by name, from the output of the last stage to features `(N, D)`: pooling, flattening, norms.
        linear: The layer from these features to the original logits, dense in most networks, or None.
        before_linear: Layers, by name, between the features and `linear`, which only the head `original` has.
        maps_channels_last: Whether the stages return maps `(N, H, W, C)`.
    """

    stages: Mapping[str, nn.Module]
    neck: Mapping[str, nn.Module] = field(default_factory=dict)
    linear: nn.Module | None = None
    before_linear: Mapping[str, nn.Module] = field(default_factory=dict)
    maps_channels_last: bool = False


def submodules(original: nn.Module, *names: str) -> nn.Sequential:
    """Return the named submodules of a network as one sequence."""
    return sequential(**{name: original.get_submodule(name) for name in names})


def regroup(
    name: str,
    original: nn.Module,
    parts: NetworkParts,
    head: Head,
    *,
    num_logits: int,
    image_size: tuple[int, int],
    in_channels: int,
    auxiliary: Auxiliary | None = None,
    pretrained: Mapping[Kind, Weights],
) -> Network:
    """Return the modules of the original as a `Network` that records the original key of each tensor.

    Args:
        name: The name of the network, for messages.
        original: The network of the library.
        parts: Its parts.
        head: Options of the new head.
        num_logits: Number of outputs of the head.
        image_size: (height, width) of the images, in pixels.
        in_channels: Channels of the images, which the original takes.
        auxiliary: An auxiliary classifier made of modules of the original.
        pretrained: Facts of its pretrained weights.

    Raises:
        UserError: The images are smaller than the stages can take.
    """
    features = prod(feature_shape(name, {**parts.stages, **parts.neck}, in_channels, image_size))
    state = original.state_dict(keep_vars=True)
    layers = head.layers(features, num_logits, parts.linear, parts.before_linear)
    network = Network(
        name,
        parts.stages,
        sequential(**parts.neck, **_apart(layers, parts.neck)),
        auxiliary=auxiliary,
        pretrained=pretrained,
        maps_channels_last=parts.maps_channels_last,
    )
    adopt_modules(network, state)
    return network


def _apart(layers: Mapping[str, nn.Module], neck: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Return layers by name, with a prefix for those that have the name of a layer of the neck."""
    return {f"new_{name}" if name in neck else name: layer for name, layer in layers.items()}
