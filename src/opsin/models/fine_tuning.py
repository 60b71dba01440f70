"""What a network takes up from another, and what of it trains when (`model.weights`, `trainable`, `phases`)."""

import itertools
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from opsin.errors import UserError
from opsin.models.load_weights import LoadedWeights, load_weights
from opsin.models.network import Network, Trainable


@dataclass(frozen=True)
class Phase:
    """What trains from an epoch on, until the next phase.

    Attributes:
        epoch: how many epochs are done when it begins.
        trainable: exactly these stages, and the head, train.
        lr_factor: every learning rate as a multiple of what it would be without phases.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    epoch: Annotated[int, Field(ge=1)]
    trainable: Trainable
    lr_factor: Annotated[float, Field(gt=0)] = 1.0


@dataclass(frozen=True)
class FreezeSchedule:
    """What of one network trains in which epoch: a function of the epoch alone, so that a run can go on anywhere.

    Attributes:
        stages: of the network, in the order they run.
        phases: with the names of their stages written out; the first begins at epoch 0.
        max_epochs: where the run ends, if that is known.
    """

    stages: tuple[str, ...]
    phases: tuple[Phase, ...]
    max_epochs: int | None = None

    def at(self, epoch: int) -> Phase:
        """The phase of an epoch, counted from 0."""
        return [phase for phase in self.phases if phase.epoch <= epoch][-1]

    def frozen(self, phase: Phase) -> tuple[str, ...]:
        """The stages that stand still in a phase."""
        return tuple(stage for stage in self.stages if stage not in phase.trainable)

    def untouched(self, epoch: int) -> tuple[str, ...]:
        """The stages that train in no epoch up to and with this one."""
        begun = [phase for phase in self.phases if phase.epoch <= epoch]
        return tuple(stage for stage in self.stages if all(stage in self.frozen(phase) for phase in begun))

    @property
    def never_trained(self) -> tuple[str, ...]:
        """The stages that train in no epoch of this run."""
        last = self.phases[-1].epoch if self.max_epochs is None else self.max_epochs - 1
        return self.untouched(last)

    @property
    def ever_trained(self) -> tuple[str, ...]:
        """The stages that train at some time, be it after `max_epochs`: a run may be taken further."""
        untouched = self.untouched(self.phases[-1].epoch)
        return tuple(stage for stage in self.stages if stage not in untouched)


@dataclass(frozen=True)
class FineTuning:
    """How a network takes up what another has learned.

    Attributes:
        weights: `none`, `imagenet`, `opsin`, a file of weights, or a run directory.
        trainable: `all`, `head`, `last:N` (stages), or the names of stages, which train beside the head; from the first
            epoch on.
        phases: what trains later, such as the last stages at a hundredth of the rate once the head has learned.
        unfreeze_every: let one more stage train, from the back, after every so many epochs (gradual unfreezing, Howard
            and Ruder, arXiv:1801.06146, section 3.3). It begins with what `trainable` says; `all` then means all in
            the end, and the head alone at first.
        backbone_lr_factor: learning rate of everything but the head, as a multiple of `optimizer.lr`.
        layer_decay: learning rate of each stage as a multiple of that of the one behind it, the head's for the last
            stage (see `opsin.training.optim.parameter_groups`).
        teacher: a run directory, or a network with ImageNet weights, whose outputs are learned too.

    Raises:
        UserError: `phases` are not in order, or are given together with `unfreeze_every`.
    """

    weights: str = "none"
    trainable: Trainable = "all"
    phases: list[Phase] | None = None
    unfreeze_every: Annotated[int, Field(ge=1)] | None = None
    backbone_lr_factor: Annotated[float, Field(gt=0)] = 1.0
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    teacher: str | None = None

    def __post_init__(self) -> None:
        if self.phases and self.unfreeze_every:
            raise UserError(
                "model.phases and model.unfreeze_every both say what trains when: set one of them, the other to null"
            )
        epochs = [phase.epoch for phase in self.phases or []]
        if any(later <= earlier for earlier, later in itertools.pairwise(epochs)):
            raise UserError(
                f"model.phases must be in the order of their epochs, each later than the one before: {epochs}"
            )

    def check_length(self, max_epochs: int) -> None:
        """See to it that a run is long enough for what is asked of it.

        Raises:
            UserError: a phase would never begin.
        """
        key, first = "model.unfreeze_every", self.unfreeze_every or 0
        if self.phases:
            key, first = "model.phases", self.phases[-1].epoch
        if first >= max_epochs:
            raise UserError(
                f"{key}: what begins after {first} epochs is never reached with trainer.max_epochs={max_epochs}; "
                f"let it train longer, begin sooner, or leave it out ({key}=null)"
            )

    def timeline(self, network: Network, max_epochs: int | None = None) -> FreezeSchedule:
        """What of this network trains when.

        Raises:
            UserError: a name is not a stage of the network.
        """
        stages = tuple(network.stages)
        if self.unfreeze_every:
            begin = "head" if self.trainable == "all" else self.trainable
            phases = [Phase(0, list(network.stages_of(begin)))]
            for stage in reversed(stages):
                trained = phases[-1].trainable
                if stage not in trained:
                    names = [name for name in stages if name in trained or name == stage]
                    phases.append(Phase(phases[-1].epoch + self.unfreeze_every, names))
            return FreezeSchedule(stages, tuple(phases), max_epochs)
        phases = [Phase(0, list(network.stages_of(self.trainable)))]
        for number, phase in enumerate(self.phases or []):
            try:
                phases.append(replace(phase, trainable=list(network.stages_of(phase.trainable))))
            except UserError as error:
                message = str(error).replace("model.trainable", f"model.phases[{number}].trainable")
                raise UserError(message) from None
        return FreezeSchedule(stages, tuple(phases), max_epochs)

    def apply(self, network: Network, pretrained: bool = True) -> LoadedWeights | None:
        """Load the weights, unless they come from elsewhere, and freeze what does not train from the first epoch on."""
        loaded = load_weights(network, self.weights) if pretrained and self.weights != "none" else None
        network.freeze(self.timeline(network).at(0).trainable)
        return loaded
