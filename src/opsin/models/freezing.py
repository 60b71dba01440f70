"""Freezing: keep stages unchanged, and check that they have not changed.

Each fact is decided in one place:
    `model.trainable`, `model.phases` and `model.unfreeze_every` set the stages that train, by epoch.
    `opsin.models.fine_tuning.FineTuning` turns them into a `FreezeSchedule`.
    `FreezableStages` keeps a frozen stage unchanged: `requires_grad=False` and evaluation mode.
    `FreezeContract` compares frozen parameters and buffers with their digests: 128 bits of the SHA-256 of type, shape
    and bytes of each tensor (`opsin.models.fingerprint`).
    `opsin.training.callbacks.freeze_phases.FreezingCallback` applies the schedule and the contract during training. It
    takes the digests when a stage is first frozen, and compares when a run resumes, when a phase begins, when training
    ends, and, for stages that never trained, in the best checkpoint before the test. If a tensor differs, the run
    fails, and the error names up to three of them. With a strategy other than one device, DDP or Opsin's FSDP nothing
    is compared, and `frozen.verified` in result.json is false.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Self

from torch import Tensor, nn

from opsin.models.auxiliary_head import Auxiliary
from opsin.models.fingerprint import digest
from opsin.models.trainable import Trainable, selected_stages


class FreezableStages(nn.Module):
    """The part of a network that freezes its stages.

    Frozen stages need no `torch.no_grad()`: autograd records nothing for them, because neither their
    parameters nor the images require gradients. If the images do (gradient ascent, saliency), gradients
    flow through the frozen stages.

    Attributes:
        name: The name of the network, for messages.
        stages: The stages by name, in the order in which they run.
        head: Everything after the last stage.
        auxiliary: An auxiliary classifier on one of the stages, or None.
        fixed: The names of the parameters that never train, because the code that made them turned their gradients off.
    """

    name: str
    stages: nn.ModuleDict
    head: nn.Module
    auxiliary: Auxiliary | None

    def __init__(self) -> None:
        super().__init__()
        self.fixed: frozenset[str] = frozenset()
        self._frozen: tuple[str, ...] = ()
        self._resting: tuple[str, ...] = ()

    @property
    def frozen_stages(self) -> tuple[str, ...]:
        """The stages that do not train, in the order they run."""
        return self._frozen

    def keep_fixed(self, resting: Collection[nn.Module]) -> None:
        """Keep the parameters that require no gradients now as they are: `freeze` never lets them train.

        Args:
            resting: Modules that stay in `eval()` after every later `train()`.
        """
        self.fixed = frozenset(name for name, parameter in self.named_parameters() if not parameter.requires_grad)
        self._resting = tuple(name for name, part in self.named_modules() if part in resting)

    def freeze(self, trainable: Trainable) -> None:
        """Train only the chosen stages and the head, without fixed parameters; replaces the choice of an earlier call.

        The parameters of a frozen stage require no gradients, and the stage stays in `eval()` after every
        later `train()`, which also freezes BatchNorm statistics and dropout. An auxiliary head trains only if
        a stage before it trains.

        Args:
            trainable: "all", "head", "last:N" or `{"last": N}` for the last N stages, or names of stages.
                The head always trains; it may be listed.

        Raises:
            UserError: A name is not a stage of this network, or the network has fewer than N stages.
        """
        chosen = selected_stages(trainable, list(self.stages), self.name)
        self._frozen = tuple(name for name in self.stages if name not in chosen)
        self._let_train(self.head, True)
        for name, stage in self.stages.items():
            self._let_train(stage, name in chosen)
            if name not in chosen:
                stage.zero_grad(set_to_none=True)  # optimizers skip None, but not zeros
        if self.auxiliary is not None:
            names = list(self.stages)
            before = names[: names.index(self.auxiliary.after) + 1]
            self._let_train(self.auxiliary, not chosen.isdisjoint(before))
        self.train(self.training)

    def _let_train(self, part: nn.Module, trains: bool) -> None:
        """Set whether the parameters of a part train, without the fixed ones."""
        fixed = {id(parameter) for name, parameter in self.named_parameters() if name in self.fixed}
        for parameter in part.parameters():
            if id(parameter) not in fixed:
                parameter.requires_grad_(trains)

    def stages_of(self, trainable: Trainable) -> tuple[str, ...]:
        """Return the stages that `trainable` selects, in the order in which they run.

        Raises:
            UserError: A name is not a stage of this network.
        """
        chosen = selected_stages(trainable, list(self.stages), self.name)
        return tuple(name for name in self.stages if name in chosen)

    def train(self, mode: bool = True) -> Self:
        """Set the training mode of the head and the stages that train; frozen ones stay in `eval()`."""
        super().train(mode)
        for name in self._resting:
            self.get_submodule(name).training = False
        for name in self._frozen:
            self.stages[name].eval()
        return self


class FreezeContract:
    """Digests of the parameters and buffers of frozen stages, and of fixed parameters, by their names in the network.

    Args:
        whole: Function that gathers a complete tensor from the parts in all processes; None if no tensor is divided.

    Attributes:
        digests: Digests of the frozen tensors; plain strings, so that a checkpoint can hold them.
    """

    def __init__(self, whole: Callable[[Tensor], Tensor] | None = None) -> None:
        self.digests: dict[str, str] = {}
        self._whole = whole or (lambda tensor: tensor)

    def hold(self, network: FreezableStages) -> None:
        """Add digests of newly frozen stages, keep those of stages that stay frozen, and drop the rest."""
        frozen = _tensors(network, network.frozen_stages)
        self.digests = {name: self.digests.get(name) or digest(self._whole(tensor)) for name, tensor in frozen.items()}

    def changed(self, network: FreezableStages, stages: Collection[str] | None = None) -> list[str]:
        """Return the names of the tensors that changed: in the given stages or in all frozen ones, and fixed ones."""
        now = _tensors(network, network.stages if stages is None else stages)
        held = {
            name: value
            for name, value in self.digests.items()
            if stages is None or name in network.fixed or name.split(".")[1] in stages
        }
        return [name for name, value in held.items() if name not in now or digest(self._whole(now[name])) != value]

    def covers(self, network: FreezableStages, stages: Collection[str]) -> bool:
        """Return whether there is a digest of every tensor of these stages, and of every fixed parameter."""
        return _tensors(network, stages).keys() <= self.digests.keys()


def change_message(changed: Collection[str]) -> str:
    """Return the message about frozen tensors that have changed."""
    names = list(changed) or ["a tensor in another process"]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (
        f"Frozen parameters or buffers have changed since they were frozen: {', '.join(names[:3])}{more}. "
        "A callback, a hook or a layer of your own writes to them: remove it, or let the stage train (model.trainable)"
    )


def fixed_message(network: FreezableStages) -> str:
    """Return the message about the parameters that the code of a network keeps from training."""
    count = sum(parameter.numel() for name, parameter in network.named_parameters() if name in network.fixed)
    parts = dict.fromkeys(name.removeprefix("stages.").split(".")[0] for name in sorted(network.fixed))
    return (
        f"{count:,} parameters in {', '.join(parts)} never train, because the code of {network.name} sets "
        "requires_grad=False; model.trainable chooses among the others"
    )


def _tensors(network: FreezableStages, stages: Iterable[str]) -> dict[str, Tensor]:
    """Return the parameters and buffers of some stages, non-persistent buffers included, and all fixed parameters."""
    of_stages = {
        f"stages.{stage}.{name}": tensor
        for stage in stages
        for kind in (network.stages[stage].named_parameters(), network.stages[stage].named_buffers())
        for name, tensor in kind
    }
    fixed = {name: parameter for name, parameter in network.named_parameters() if name in network.fixed}
    return of_stages | fixed
