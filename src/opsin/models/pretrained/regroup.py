"""From another library's network to named stages, a head of our choice, and the library's own keys."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

from torch import nn

from opsin.models.auxiliary_head import Auxiliary
from opsin.models.network import Network, sequential
from opsin.models.pretrained.heads import Head
from opsin.models.shapes import feature_shape
from opsin.models.weights import Kind, Weights


@dataclass(frozen=True)
class Division:
    """A library's network taken apart.

    Attributes:
        stages: By name, in their order.
        neck: What turns the last stage's output into features `(N, D)`, by name; pools and flattens first.
        linear: The layer that made its logits, where features are the same; None: there is no such layer.
    """

    stages: Mapping[str, nn.Module]
    neck: Mapping[str, nn.Module] = field(default_factory=dict)
    linear: nn.Linear | None = None


def parts(original: nn.Module, *names: str) -> nn.Sequential:
    """Return the named parts of a network as one, run in the order given."""
    return sequential(**{name: original.get_submodule(name) for name in names})


def regroup(
    name: str,
    original: nn.Module,
    division: Division,
    head: Head,
    *,
    num_logits: int,
    image_size: tuple[int, int],
    auxiliary: Auxiliary | None = None,
    pretrained: Mapping[Kind, Weights],
) -> Network:
    """Return the original's modules as a network that knows the original's key of each of its tensors.

    Args:
        name: The network's name, for messages.
        original: The library's network.
        division: The same, taken apart.
        head: The head wanted.
        num_logits: Outputs of the head.
        image_size: (height, width) of the images, in pixels.
        auxiliary: A second classifier, of the original's modules.
        pretrained: Facts of its pretrained weights.

    Raises:
        UserError: The images are smaller than the stages can take.
    """
    features = prod(feature_shape(name, {**division.stages, **division.neck}, 3, image_size))
    original_key = {id(tensor): key for key, tensor in original.state_dict(keep_vars=True).items()}
    network = Network(
        name,
        division.stages,
        sequential(**division.neck, **head.layers(features, num_logits, division.linear)),
        auxiliary=auxiliary,
        pretrained=pretrained,
    )
    tensors = network.state_dict(keep_vars=True)
    network.original_keys = {
        key: original_key[id(tensor)] for key, tensor in tensors.items() if id(tensor) in original_key
    }
    for module in network.modules():  # in place, hooked activations would be overwritten later
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    return network
