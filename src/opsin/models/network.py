"""The base class of all networks: an ordered sequence of named stages and a head."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from opsin.models.auxiliary_head import Auxiliary
from opsin.models.freezing import FreezableStages
from opsin.models.recomputation import recomputed
from opsin.models.weights import Kind, Weights

Rate = Annotated[float, Field(ge=0, lt=1)]
"""A dropout probability."""

Width = Annotated[int, Field(ge=1)]
"""A number of units."""


class Network(FreezableStages):
    """An ordered sequence of named stages, and a head that returns logits.

    Freezing, caching, learning rates, CAM targets and activations all refer to stages by name.

    Freezing is in `opsin.models.freezing`.

    Attributes:
        name: The name of the function that builds the network, for messages.
        stages: The stages by name, in the order in which they run.
        head: Everything after the last stage: features to logits `(N, num_logits)`.
        auxiliary: An auxiliary classifier on one of the stages, used in training; None for most networks.
        pretrained: Facts of the pretrained weights, by their name in `model.weights`.
        maps_channels_last: Whether the stages return maps `(N, H, W, C)`, as those of Swin.
        gradient_checkpointing: Whether stages that train keep only their input and compute their activations again in
            the backward pass.
        original_keys: For a network built from one of another library, the key in the state dict of that library
            for each key of this network; empty for other networks.
        left_out_keys: The other keys in the state dict of that library, such as those of logits that a new head
            replaces.
    """

    def __init__(
        self,
        name: str,
        stages: Mapping[str, nn.Module],
        head: nn.Module,
        *,
        auxiliary: Auxiliary | None = None,
        pretrained: Mapping[Kind, Weights] | None = None,
        original_keys: Mapping[str, str] | None = None,
        maps_channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.name = name
        self.stages = nn.ModuleDict(stages)
        self.head = head
        self.auxiliary = auxiliary
        self.pretrained = dict(pretrained or {})
        self.original_keys = dict(original_keys or {})
        self.maps_channels_last = maps_channels_last
        self.left_out_keys: frozenset[str] = frozenset()
        self.gradient_checkpointing = False

    def steps(self) -> dict[str, nn.Module]:
        """Return all steps in the order in which they run: stages by name, then parts of the head as `head.<name>`."""
        if not is_sequence(self.head):
            return {**self.stages, "head": self.head}
        return {**self.stages, **{f"head.{name}": part for name, part in members(self.head).items()}}

    @property
    def embedding_step(self) -> str:
        """The step whose output is the embedding.

        It is the last step before the first part of the head that has parameters or dropout.
        """
        last = list(self.stages)[-1]
        for name, step in self.steps().items():
            if name not in self.stages:
                if _learns(step):
                    break
                last = name
        return last

    def forward_features(self, x: Tensor, until: str | None = None, after: str | None = None) -> Tensor:
        """Return the output of a step for images `(N, C, H, W)`.

        Args:
            x: Images, or the output of the step `after`.
            until: The step whose output to return; None for the last stage.
            after: The step that computed `x`; None if `x` are images.
        """
        chosen = self.stages.items() if until is after is None else self._between(after, until)
        recompute = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        for name, step in chosen:
            trains = name in self.stages and name not in self._frozen
            x = recomputed(step, x) if recompute and trains else step(x)
            if self.auxiliary is not None and name == self.auxiliary.after:
                self.auxiliary(x)  # keeps its logits for the loss
        return x

    def forward(self, x: Tensor, after: str | None = None) -> Tensor:
        """Return logits `(N, num_logits)` for images `(N, C, H, W)`, or for the output of the step `after`."""
        if after is not None:
            return self.forward_features(x, list(self.steps())[-1], after)
        logits: Tensor = self.head(self.forward_features(x))
        return logits

    def embed(self, x: Tensor) -> Tensor:
        """Return the embeddings `(N, D)` of images: the averaged input of the first layer of the head."""
        return as_embedding(self.forward_features(x, self.embedding_step))

    def _between(self, after: str | None, until: str | None) -> list[tuple[str, nn.Module]]:
        steps = list(self.steps().items())
        names = [name for name, _ in steps]
        first = 0 if after is None else names.index(after) + 1
        return steps[first : names.index(until or list(self.stages)[-1]) + 1]


def adopt_modules(network: Network, original: Mapping[str, Tensor]) -> None:
    """Prepare a network that is made of the modules of another one: record keys, and forbid in-place operations.

    Args:
        network: The network.
        original: The state dict of the other network with its own tensors (`keep_vars`).
    """
    keys: dict[int, list[str]] = {}
    for key, tensor in original.items():  # several keys for a tensor that modules share
        keys.setdefault(id(tensor), []).append(key)
    own = network.state_dict(keep_vars=True)
    kept = {id(tensor) for tensor in own.values()}
    network.left_out_keys = frozenset(key for key, tensor in original.items() if id(tensor) not in kept)
    for key, tensor in own.items():
        if names := keys.get(id(tensor)):
            network.original_keys[key] = names.pop(0) if len(names) > 1 else names[0]
    for module in network.modules():  # in-place operations would overwrite activations recorded by hooks
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]


def as_embedding(features: Tensor) -> Tensor:
    """Return features as vectors `(N, D)`: maps `(N, D, H, W)` are averaged over their area."""
    return features.mean(dim=(2, 3)) if features.ndim == 4 else features.flatten(1)


def _learns(step: nn.Module) -> bool:
    """Return whether a part of the head has parameters or is random; the parts before it are a fixed function."""
    random = any("drop" in type(module).__name__.lower() for module in step.modules())
    return random or next(step.parameters(), None) is not None or next(step.buffers(), None) is not None


def members(module: nn.Module) -> dict[str, nn.Module]:
    """Return the submodules by name; one with two names is returned twice, unlike by `named_children`."""
    return {name: part for name, part in module.named_modules(remove_duplicate=False) if name and "." not in name}


def is_sequence(module: nn.Module) -> bool:
    """Return whether a module runs its members one after the other: an `nn.Sequential` without its own `forward`."""
    return type(module).forward is nn.Sequential.forward


def sequential(**modules: nn.Module) -> nn.Sequential:
    """Return the modules as one `nn.Sequential` with their names."""
    return nn.Sequential(OrderedDict(modules))


def class_logits(logits: Tensor) -> Tensor:
    """Return logits `(N, C)` whose softmax is the class probabilities; a single logit z becomes (0, z)."""
    return F.pad(logits, (1, 0)) if logits.shape[1] == 1 else logits
