"""Apply the phases of a run: freeze and unfreeze stages by epoch, scale the learning rates, and check frozen stages.

`opsin.models.freezing` keeps a frozen stage unchanged and checks it. The optimizer is the same in all phases: it has
groups for the stages of all phases from the start (`opsin.training.optim.parameter_groups`).
"""

import logging
from collections.abc import Collection, Iterable
from typing import Any

import lightning as L
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from opsin.errors import UserError
from opsin.models import Network
from opsin.models.fine_tuning import FreezeSchedule, Phase
from opsin.models.freezing import FreezeContract, change_message
from opsin.training.distributed.fsdp import Sharded, full_tensor, is_sharded
from opsin.training.optim.config_values import SCHEDULE_RATES

log = logging.getLogger(__name__)

RATES = ("lr", *SCHEDULE_RATES)
"""Keys of a parameter group that hold learning rates, those of schedules included."""

SCHEDULER_RATES = ("base_lrs", "max_lrs", "eta_min")
"""Attributes of torch's schedules that hold learning rates: one of each group, or one of all groups."""


class FreezingCallback(L.Callback):
    """Freeze and unfreeze stages by epoch, and check that frozen stages do not change.

    The trainable stages and the factor of the learning rates depend on the epoch alone. Digests of frozen stages are
    saved in the checkpoints and compared when a run is resumed, when a phase begins and when training ends. Stages that
    never trained are also compared in the best checkpoint before the test (`verify_tested`). The callback must come
    before callbacks that read learning rates. The module must have a `network`.

    Args:
        schedule: The stages that train, by epoch.

    Attributes:
        schedule: The stages that train, by epoch.
        verified: Whether the frozen stages were compared at the end of training and are unchanged.
        untouched: The stages that trained in no epoch; known when training ends.
    """

    def __init__(self, schedule: FreezeSchedule) -> None:
        self.schedule = schedule
        self.verified = False
        self.untouched: tuple[str, ...] = ()
        self._contract = FreezeContract(full_tensor)
        self._phase: Phase | None = None

    @property
    def never_trained(self) -> tuple[str, ...]:
        """The stages that train in no epoch of the run."""
        return self.schedule.never_trained

    def state_dict(self) -> dict[str, Any]:
        """Return the digests of the frozen stages."""
        return {"digests": self._contract.digests}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the digests from the start of the run."""
        self._contract.digests = dict(state_dict["digests"])

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check that the strategy supports phases.

        Raises:
            UserError: The strategy shards parameters among processes, or is unknown.
        """
        if len(self.schedule.phases) > 1 and (is_sharded(trainer) or not _is_known(trainer)):
            raise UserError(
                f"the strategy {type(trainer.strategy).__name__} cannot unfreeze stages later; use "
                "trainer.strategy=auto or ddp, or set model.phases and model.unfreeze_every to null"
            )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin the phase of this epoch; a resumed run may start in the middle of a phase."""
        epoch = trainer.current_epoch
        if trainer.max_epochs is not None and trainer.max_epochs > 0:  # a finished run begins no further phase
            epoch = min(epoch, trainer.max_epochs - 1)
        self._begin(trainer, pl_module, self.schedule.at(epoch))

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin the phase of this epoch if it differs from the current one."""
        phase = self.schedule.at(trainer.current_epoch)
        if phase is not self._phase:
            self._begin(trainer, pl_module, phase)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare all frozen stages before another callback replaces the weights by their average.

        Raises:
            UserError: A frozen stage has changed.
        """
        self.verify(trainer, pl_module)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare frozen stages once more, and warn about a phase that never began.

        This hook runs after `on_train_end` of all callbacks. The weights may then be an average, which differs in a
        stage that trained before it was frozen, and is equal in a stage that never trained. If no epoch was trained,
        `on_train_end` did not run, and all frozen stages are compared.

        Raises:
            UserError: A frozen stage has changed.
        """
        self.untouched = self.schedule.untouched(max(0, trainer.current_epoch - 1))
        self.verify(trainer, pl_module, None if self._phase is None else self.untouched)
        self.verified = _is_known(trainer) and self._contract.covers(_network(pl_module), self.untouched)
        planned = [phase.epoch for phase in self.schedule.phases if phase.epoch < (trainer.max_epochs or 0)]
        missed = [epoch for epoch in planned if epoch > 0 and epoch >= trainer.current_epoch]
        if missed and trainer.is_global_zero:
            log.warning("training ended before the phase after epoch %d began", missed[0])

    def verify(self, trainer: L.Trainer, pl_module: L.LightningModule, stages: Collection[str] | None = None) -> None:
        """Compare frozen stages with their digests; all processes raise if one finds a difference.

        Args:
            trainer: The trainer.
            pl_module: The module.
            stages: The stages to compare; None for all frozen ones.

        Raises:
            UserError: A frozen stage has changed.
        """
        if not _is_known(trainer):
            return
        changed = self._contract.changed(_network(pl_module), stages)
        if trainer.strategy.reduce_boolean_decision(bool(changed), all=False):
            raise UserError(change_message(changed))

    def verify_tested(self, network: Network) -> None:
        """Compare the checkpoint to be tested with the start of the run, in all stages that never trained.

        Raises:
            UserError: A frozen stage has changed.
        """
        if self.verified and (changed := self._contract.changed(network, self.untouched)):
            raise UserError(f"best checkpoint: {change_message(changed)}")

    def _begin(self, trainer: L.Trainer, pl_module: L.LightningModule, phase: Phase) -> None:
        self.verify(trainer, pl_module)
        network = _network(pl_module)
        before = network.frozen_stages
        network.freeze(phase.trainable)
        if network.frozen_stages != before:
            wrap_again(trainer)
        if _is_known(trainer):
            self._contract.hold(network)
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        for optimizer in trainer.optimizers:
            scale_rates(optimizer, schedulers, phase.lr_factor)
        self._phase = phase
        if phase.epoch and trainer.is_global_zero:
            log.info("%s", announcement(network, phase, before))


def scale_rates(optimizer: Optimizer, schedulers: Iterable[Any], factor: float) -> None:
    """Set each learning rate to `factor` times its value without a factor.

    Each parameter group stores the current factor as `phase_factor`, which checkpoints keep; a repeated call has no
    effect. The rates that schedules store are scaled too, so that schedules continue unchanged. The lowest rate of
    `plateau` (`min_lr`) is not scaled.
    """
    ratios = [factor / group.get("phase_factor", 1.0) for group in optimizer.param_groups]
    for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
        if ratio != 1:
            group |= {key: group[key] * ratio for key in RATES if key in group}
        group["phase_factor"] = factor
    for scheduler in schedulers:
        for name in SCHEDULER_RATES if scheduler.optimizer is optimizer else ():
            value = getattr(scheduler, name, None)
            if isinstance(value, list):
                setattr(scheduler, name, [rate * ratio for rate, ratio in zip(value, ratios, strict=True)])
            elif value is not None:
                setattr(scheduler, name, value * ratios[0])


def wrap_again(trainer: L.Trainer) -> None:
    """Wrap the module again, because DistributedDataParallel lists the parameters with gradients only at its creation.

    The other way, to wrap before stages are frozen and set `find_unused_parameters`, costs time in every step.
    """
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy):
        old = strategy.model
        assert isinstance(old, DistributedDataParallel)
        # Otherwise the old wrapper averages gradients a second time until it is garbage-collected.
        old._remove_autograd_hooks()  # type: ignore[no-untyped-call]
        strategy.model = trainer.lightning_module
        strategy.configure_ddp()


def announcement(network: Network, phase: Phase, before: Collection[str]) -> str:
    """Return one line that describes the start of a phase."""
    frozen = network.frozen_stages
    thawed = [stage for stage in before if stage not in frozen]
    stopped = [stage for stage in frozen if stage not in before]
    changes = [
        *([f"{', '.join(thawed)} {'trains' if len(thawed) == 1 else 'train'} too"] if thawed else []),
        *([f"{', '.join(stopped)} {'is' if len(stopped) == 1 else 'are'} frozen"] if stopped else []),
    ]
    count = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    rates = f"; learning rates x {phase.lr_factor:g}" if phase.lr_factor != 1 else ""
    return f"after {phase.epoch} epochs: {'; '.join(changes) or 'the same stages train'}; {count:,} parameters{rates}"


def _network(module: L.LightningModule) -> Network:
    network = module.network
    assert isinstance(network, Network)
    return network


def _is_known(trainer: L.Trainer) -> bool:
    """Return whether frozen stages can be compared: with one device, DDP or FSDP, but not with their subclasses."""
    return type(trainer.strategy) in (SingleDeviceStrategy, DDPStrategy, Sharded)
