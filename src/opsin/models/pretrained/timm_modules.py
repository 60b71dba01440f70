"""Modules that run a part of a network of timm: `forward_features`, `forward_head`, or the layers of its logits.

They share their tensors with the network and leave it as it is.
"""

import copy
from collections.abc import Collection
from typing import Any

from torch import Tensor, nn


def classifiers(original: nn.Module) -> list[nn.Module]:
    """Return the layers of the logits: one, or two that were trained with and without a teacher."""
    from timm.layers import ClassifierHead  # seconds, which networks of other libraries save

    found = original.get_classifier()  # type: ignore[operator]
    if isinstance(found, ClassifierHead):  # some networks return the whole head, which pools too
        found = found.fc
    return list(found) if isinstance(found, tuple | list | nn.ModuleList) else [found]


class MeanLogits(nn.Module):
    """The mean of the logits of several layers, as in networks trained by distillation."""

    def __init__(self, layers: Collection[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean logits `(N, num_logits)` for features `(N, D)`."""
        total: Tensor = sum(layer(x) for layer in self.layers)
        return total / len(self.layers)


class PointwiseClassifier(nn.Module):
    """A 1x1 convolution on features without height and width, `(N, D)` to `(N, num_logits)`."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.conv(x[:, :, None, None])
        return logits.flatten(1)


class _Rest(nn.Module):
    """Some children of a network, and its methods.

    Args:
        original: The network; it does not change, and its tensors are shared.
        children: The names of the children.
        tensors: Whether to keep parameters and buffers of the network itself, such as positions.
        without: Layers to leave out, besides that of the logits.
    """

    def __init__(
        self,
        original: nn.Module,
        children: Collection[str],
        *,
        tensors: bool = True,
        without: Collection[nn.Module] = (),
    ) -> None:
        super().__init__()
        rest: Any = _without(original, {id(layer) for layer in [*classifiers(original), *without]})
        rest._modules = {name: part if name in children else None for name, part in rest._modules.items()}
        if not tensors:
            rest._parameters, rest._buffers = dict.fromkeys(rest._parameters), dict.fromkeys(rest._buffers)
        self.rest = rest


class Body(_Rest):
    """The `forward_features` of a network of timm: images to features, mostly maps `(N, C, H, W)`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of images."""
        features: Tensor = self.rest.forward_features(x)
        return features


class Pooling(_Rest):
    """The `forward_head` of a network of timm without its last layer: features to `(N, D)`."""

    def __init__(self, original: nn.Module, children: Collection[str]) -> None:
        super().__init__(original, children, tensors=False, without=_idle_dropouts(original))

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled features."""
        pooled: Tensor = self.rest.forward_head(x, pre_logits=True)
        return pooled


class PooledBody(_Rest):
    """A whole network of timm without its last layer: images to `(N, D)`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled features of images."""
        pooled: Tensor = self.rest.forward_head(self.rest.forward_features(x), pre_logits=True)
        return pooled


def _idle_dropouts(original: nn.Module) -> list[nn.Module]:
    """Return the dropout layers with probability zero; a head with dropout cannot be cached."""
    return [layer for layer in original.modules() if isinstance(layer, nn.Dropout) and layer.p == 0]


def _without(module: nn.Module, removed: Collection[int]) -> nn.Module:
    """Return a copy of a module that shares its tensors; an identity replaces some submodules."""
    rest = copy.copy(module)
    rest._parameters, rest._buffers = dict(module._parameters), dict(module._buffers)
    rest._modules = {name: _replaced(part, removed) for name, part in module._modules.items()}
    return rest


def _replaced(part: nn.Module | None, removed: Collection[int]) -> nn.Module | None:
    if part is None or not any(id(inner) in removed for inner in part.modules()):
        return part
    return nn.Identity() if id(part) in removed else _without(part, removed)
