"""Fine-tuning options, and which stages are frozen in which epoch (`model.weights`, `trainable`, `phases`)."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from opsin.errors import UserError
from opsin.models.load_weights import LoadedWeights, load_weights
from opsin.models.network import Network
from opsin.models.trainable import Trainable


@dataclass(frozen=True)
class Phase:
    """The stages that train from an epoch until the next phase.

    Attributes:
        epoch: Number of completed epochs at which the phase begins.
        trainable: The stages that train; the head always trains.
        lr_factor: Factor of every learning rate.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    epoch: Annotated[int, Field(ge=1)]
    trainable: Trainable
    lr_factor: Annotated[float, Field(gt=0)] = 1.0


@dataclass(frozen=True)
class FreezeSchedule:
    """The stages of a network that are frozen in each epoch. It depends only on the epoch, so runs can resume anywhere.

    Attributes:
        stages: All stages, in the order in which they run.
        phases: The phases, with lists of stage names; the first begins at epoch 0.
        max_epochs: Length of the run, if known.
    """

    stages: tuple[str, ...]
    phases: tuple[Phase, ...]
    max_epochs: int | None = None

    def at(self, epoch: int) -> Phase:
        """Return the phase of an epoch, counted from 0."""
        return [phase for phase in self.phases if phase.epoch <= epoch][-1]

    def frozen(self, phase: Phase) -> tuple[str, ...]:
        """Return the stages that are frozen in a phase."""
        return tuple(stage for stage in self.stages if stage not in phase.trainable)

    def untouched(self, epoch: int) -> tuple[str, ...]:
        """Return the stages that are frozen in all epochs up to and including this one."""
        begun = [phase for phase in self.phases if phase.epoch <= epoch]
        return tuple(stage for stage in self.stages if all(stage in self.frozen(phase) for phase in begun))

    @property
    def never_trained(self) -> tuple[str, ...]:
        """The stages that are frozen in all epochs of this run."""
        last = self.phases[-1].epoch if self.max_epochs is None else self.max_epochs - 1
        return self.untouched(last)

    @property
    def ever_trained(self) -> tuple[str, ...]:
        """The stages that train in some phase, including phases after `max_epochs`, because a run may be extended."""
        untouched = self.untouched(self.phases[-1].epoch)
        return tuple(stage for stage in self.stages if stage not in untouched)


@dataclass(frozen=True)
class FineTuning:
    """Options for fine-tuning a pretrained network.

    Attributes:
        weights: `none`, `imagenet`, `opsin`, a file of weights, or a run directory.
        trainable: The stages that train from the first epoch: `all`, `head`, `last:N` or a list of names. The head
            always trains.
        phases: Later phases, such as the last stages at a hundredth of the learning rate after the head has trained.
        unfreeze_every: Unfreeze one more stage, from the last to the first, after this number of epochs (gradual
            unfreezing, Howard and Ruder, arXiv:1801.06146, section 3.3). Training begins with `trainable`; `all` means
            the head alone at first.
        backbone_lr_factor: Learning rate of the stages as a multiple of `optimizer.lr`.
        layer_decay: Learning rate of each stage as a multiple of that of the next stage, or of the head for the last
            stage (see `opsin.training.optim.parameter_groups`).
        whitened_stem: Set the filters of the first convolution by whitening patches of the training images (see
            `opsin.models.whitening`); `trainable` decides whether they train.
        teacher: A run directory, or a network with ImageNet weights, whose outputs are also trained on.

    Raises:
        UserError: `phases` are not in order, or are given together with `unfreeze_every`; or `whitened_stem` would
            replace pretrained weights.
    """

    weights: str = "none"
    trainable: Trainable = "all"
    phases: list[Phase] | None = None
    unfreeze_every: Annotated[int, Field(ge=1)] | None = None
    backbone_lr_factor: Annotated[float, Field(gt=0)] = 1.0
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    whitened_stem: bool = False
    teacher: str | None = None

    def __post_init__(self) -> None:
        if self.phases and self.unfreeze_every:
            raise UserError("model.phases and model.unfreeze_every exclude each other: set one of them to null")
        if self.whitened_stem and self.weights != "none":
            raise UserError(
                f"model.whitened_stem=true would replace filters of model.weights={self.weights}: set it to false"
            )
        epochs = [phase.epoch for phase in self.phases or []]
        if any(later <= earlier for earlier, later in itertools.pairwise(epochs)):
            raise UserError(f"the epochs of model.phases must increase, got {epochs}")

    def check_length(self, epochs: int, reason: str) -> None:
        """Check that the phases, or the first unfrozen stage, begin within the run.

        Args:
            epochs: Number of epochs that the run begins.
            reason: The setting that limits them, for the message.

        Raises:
            UserError: A phase never begins.
        """
        key, first = "model.unfreeze_every", self.unfreeze_every or 0
        if self.phases:
            key, first = "model.phases", self.phases[-1].epoch
        if first >= epochs:
            raise UserError(
                f"{key}: the phase at epoch {first} never starts, because {reason}. "
                f"Train longer, lower the epoch, or set {key}=null"
            )

    def freeze_schedule(self, network: Network, max_epochs: int | None = None) -> FreezeSchedule:
        """Return the freeze schedule for a network.

        Raises:
            UserError: A name is not a stage of the network.
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

    def apply(
        self, network: Network, pretrained: bool = True, classes: Sequence[str] | None = None
    ) -> LoadedWeights | None:
        """Load the weights if `pretrained`, and freeze the stages that do not train in the first epoch.

        Args:
            network: The network.
            pretrained: Whether to load the weights.
            classes: Names of its classes; see `load_weights`.
        """
        loaded = load_weights(network, self.weights, classes) if pretrained and self.weights != "none" else None
        network.freeze(self.freeze_schedule(network).at(0).trainable)
        return loaded
