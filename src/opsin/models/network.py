"""The one shape every network has: an ordered sequence of named stages and a head."""

import difflib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field
from torch import Tensor, nn

from opsin.errors import UserError
from opsin.models.weights import Weights

Trainable = Literal["all", "head"] | list[str]
"""What `model.trainable` takes: everything, the head alone, or the named stages and the head."""

Rate = Annotated[float, Field(ge=0, lt=1)]
"""A dropout probability."""

Width = Annotated[int, Field(ge=1)]
"""A number of units."""


class Network(nn.Module):
    """An ordered sequence of named stages, then a head that gives logits.

    Freezing, caching, learning rates, CAM targets and activations all speak in stage names.

    Frozen stages need no `torch.no_grad()`: autograd records nothing for them, because neither their
    parameters nor the images require gradients. When the images do (gradient ascent, saliency), the
    gradients flow through the frozen stages as they should.

    Attributes:
        name: The name of the function that built the network, for messages.
        stages: The stages by name, in the order they run.
        head: Everything after the last stage: features to logits `(N, num_logits)`.
        imagenet: Facts of the network's ImageNet weights; None: there are none.
        original_keys: For a network regrouped from another library's, the key of that library's state
            dict for each key of this one's; empty for our own networks.
    """

    def __init__(
        self,
        name: str,
        stages: Mapping[str, nn.Module],
        head: nn.Module,
        *,
        imagenet: Weights | None = None,
        original_keys: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.stages = nn.ModuleDict(stages)
        self.head = head
        self.imagenet = imagenet
        self.original_keys = dict(original_keys or {})
        self._frozen: tuple[str, ...] = ()

    @property
    def frozen_stages(self) -> tuple[str, ...]:
        """The stages that do not train, in the order they run."""
        return self._frozen

    def steps(self) -> dict[str, nn.Module]:
        """What runs, in its order: the stages by their names, then the parts of the head as `head.<name>`."""
        head = {f"head.{name}": part for name, part in self.head.named_children()}
        return {**self.stages, **(head if isinstance(self.head, nn.Sequential) else {"head": self.head})}

    @property
    def embedding_step(self) -> str:
        """The step whose output is the embedding: the last before a parameter of the head (or its dropout)."""
        last = list(self.stages)[-1]
        for name, step in self.steps().items():
            if name not in self.stages:
                if _learns(step):
                    break
                last = name
        return last

    def forward_features(self, x: Tensor, until: str | None = None, after: str | None = None) -> Tensor:
        """Return what a step makes of images `(N, C, H, W)`.

        Args:
            x: Images, or what an earlier step made of them.
            until: The step whose output is wanted; None: the last stage.
            after: That earlier step; None: `x` are images.
        """
        if until is after is None:
            for stage in self.stages.values():
                x = stage(x)
            return x
        steps = self.steps()
        names = list(steps)
        first = 0 if after is None else names.index(after) + 1
        for name in names[first : names.index(until or list(self.stages)[-1]) + 1]:
            x = steps[name](x)
        return x

    def forward(self, x: Tensor, after: str | None = None) -> Tensor:
        """Return logits `(N, num_logits)` for images `(N, C, H, W)`, or for what the step `after` made of them."""
        if after is not None:
            return self.forward_features(x, list(self.steps())[-1], after)
        logits: Tensor = self.head(self.forward_features(x))
        return logits

    def embed(self, x: Tensor) -> Tensor:
        """Return the embeddings `(N, D)` of images: what the head's first layer sees, maps averaged over their area."""
        return as_embedding(self.forward_features(x, self.embedding_step))

    def freeze(self, trainable: str | list[str]) -> None:
        """Train only the named stages and the head; replaces what an earlier call chose.

        A frozen stage's parameters need no gradients, and the stage stays in `eval()` through every
        later `train()`, so that BatchNorm statistics and dropout stand still too.

        Args:
            trainable: "all", "head", or names of stages. The head always trains; naming it is allowed.

        Raises:
            UserError: A name is not a stage of this network.
        """
        chosen = self._trainable_stages(trainable)
        self._frozen = tuple(name for name in self.stages if name not in chosen)
        self.head.requires_grad_(True)
        for name, stage in self.stages.items():
            stage.requires_grad_(name in chosen)
            if name not in chosen:
                stage.zero_grad(set_to_none=True)  # an optimizer passes over what has no gradient, not over a zero
        self.train(self.training)

    def stages_of(self, trainable: Trainable) -> tuple[str, ...]:
        """The stages that `trainable` means, in the order they run.

        Raises:
            UserError: A name is not a stage of this network.
        """
        chosen = self._trainable_stages(trainable)
        return tuple(name for name in self.stages if name in chosen)

    def train(self, mode: bool = True) -> Self:
        """Set the training mode of the head and the stages that train; frozen ones stay in `eval()`."""
        super().train(mode)
        for name in self._frozen:
            self.stages[name].eval()
        return self

    def _trainable_stages(self, trainable: str | list[str]) -> set[str]:
        if trainable == "all":
            return set(self.stages)
        if trainable == "head":
            return set()
        if isinstance(trainable, str):
            raise UserError(
                f"model.trainable={trainable!r} is neither `all` nor `head`; "
                f"stages are given as a list, such as [{list(self.stages)[-1]}]"
            )
        for name in trainable:
            if name not in self.stages and name != "head":
                nearest = difflib.get_close_matches(name, [*self.stages, "head"], n=1, cutoff=0.5)
                hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
                raise UserError(
                    f"model.trainable: {self.name} has no stage {name!r}{hint} "
                    f"Its stages are {', '.join(self.stages)}, then the head, which always trains."
                )
        return set(trainable)


def as_embedding(features: Tensor) -> Tensor:
    """Return features as vectors `(N, D)`: maps `(N, D, H, W)` are averaged over their area."""
    return features.mean(dim=(2, 3)) if features.ndim == 4 else features.flatten(1)


def _learns(step: nn.Module) -> bool:
    """Whether a part of the head has parameters or draws at random: what comes before it is a fixed function."""
    random = any("drop" in type(module).__name__.lower() for module in step.modules())
    return random or next(step.parameters(), None) is not None or next(step.buffers(), None) is not None


def sequential(**modules: nn.Module) -> nn.Sequential:
    """Return the modules as one, run in the order given, each under its own name."""
    return nn.Sequential(OrderedDict(modules))
