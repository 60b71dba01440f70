"""The one shape every network has: an ordered sequence of named stages and a head."""

import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field
from torch import Tensor, nn
from torch.nn import functional as F

from opsin.errors import UserError, did_you_mean
from opsin.models.auxiliary_head import Auxiliary
from opsin.models.weights import Kind, Weights

_LAST = re.compile(r"last: *([0-9]+)")


def _selection(trainable: str) -> str:
    if trainable in ("all", "head") or _LAST.fullmatch(trainable):
        return trainable
    raise ValueError("should be `all`, `head`, `last:N` or a list of stages")


_Last = Annotated[dict[Literal["last"], Annotated[int, Field(ge=1)]], Field(min_length=1)]
Trainable = Annotated[str, AfterValidator(_selection)] | list[str] | _Last
"""What `model.trainable` takes: `all`, `head` (alone), `last:N` or `{last: N}` (the last N stages and the head), or
a list of stages (and the head)."""

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
        auxiliary: A second classifier that hangs on one of the stages while the network trains; mostly None.
        pretrained: Facts of the network's pretrained weights, by the word that `model.weights` has for them.
        original_keys: For a network regrouped from another library's, the key of that library's state
            dict for each key of this one's; empty for our own networks.
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
    ) -> None:
        super().__init__()
        self.name = name
        self.stages = nn.ModuleDict(stages)
        self.head = head
        self.auxiliary = auxiliary
        self.pretrained = dict(pretrained or {})
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
        chosen = self.stages.items() if until is after is None else self._between(after, until)
        for name, step in chosen:
            x = step(x)
            if self.auxiliary is not None and name == self.auxiliary.after:
                self.auxiliary(x)  # keeps its logits for the loss
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

    def _between(self, after: str | None, until: str | None) -> list[tuple[str, nn.Module]]:
        steps = list(self.steps().items())
        names = [name for name, _ in steps]
        first = 0 if after is None else names.index(after) + 1
        return steps[first : names.index(until or list(self.stages)[-1]) + 1]

    def freeze(self, trainable: str | list[str] | Mapping[Literal["last"], int]) -> None:
        """Train only the chosen stages and the head; replaces what an earlier call chose.

        A frozen stage's parameters need no gradients, and the stage stays in `eval()` through every
        later `train()`, so that BatchNorm statistics and dropout stand still too. An auxiliary head trains
        if a stage before it does; otherwise it would help nothing, and stands still as they do.

        Args:
            trainable: "all", "head", "last:N" or `{"last": N}` for the last N stages, or names of stages.
                The head always trains; naming it is allowed.

        Raises:
            UserError: A name is not a stage of this network, or it has fewer than N.
        """
        chosen = self._trainable_stages(trainable)
        self._frozen = tuple(name for name in self.stages if name not in chosen)
        self.head.requires_grad_(True)
        for name, stage in self.stages.items():
            stage.requires_grad_(name in chosen)
            if name not in chosen:
                stage.zero_grad(set_to_none=True)  # an optimizer passes over what has no gradient, not over a zero
        if self.auxiliary is not None:
            names = list(self.stages)
            before = names[: names.index(self.auxiliary.after) + 1]
            self.auxiliary.requires_grad_(not chosen.isdisjoint(before))
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

    def _trainable_stages(self, trainable: str | list[str] | Mapping[Literal["last"], int]) -> set[str]:
        if isinstance(trainable, Mapping):
            return self._last_stages(trainable["last"])
        if isinstance(trainable, str) and (last := _LAST.fullmatch(trainable)):
            return self._last_stages(int(last[1]))
        if trainable == "all":
            return set(self.stages)
        if trainable == "head":
            return set()
        if isinstance(trainable, str):
            raise UserError(
                f"model.trainable={trainable!r} is neither `all`, `head` nor `last:N`; "
                f"stages are given as a list, such as [{list(self.stages)[-1]}]"
            )
        for name in trainable:
            if name not in self.stages and name != "head":
                hint = did_you_mean(name, [*self.stages, "head"]) or "."
                raise UserError(
                    f"model.trainable: {self.name} has no stage {name!r}{hint} "
                    f"Its stages are {', '.join(self.stages)}, then the head, which always trains."
                )
        return set(trainable)

    def _last_stages(self, count: int) -> set[str]:
        names = list(self.stages)
        if not 1 <= count <= len(names):
            raise UserError(
                f"model.trainable=last:{count}: {self.name} has {len(names)} stages, which are {', '.join(names)}; "
                f"take last:1 to last:{len(names)}, or `head` for none of them"
            )
        return set(names[-count:])


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


def class_logits(logits: Tensor) -> Tensor:
    """Logits `(N, C)` whose softmax are the class probabilities; one logit z becomes the pair (0, z)."""
    return F.pad(logits, (1, 0)) if logits.shape[1] == 1 else logits
