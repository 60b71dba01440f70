"""FreezingCallback over time, and the proof that what was frozen stayed as it was."""

import logging
from collections.abc import Collection, Iterable
from typing import Any

import lightning as L
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from opsin.errors import UserError
from opsin.models import Network
from opsin.models.fine_tuning import FreezeSchedule, Phase
from opsin.models.fingerprint import digest
from opsin.training.distributed.fsdp import Sharded, is_sharded, whole

log = logging.getLogger(__name__)

RATES = ("lr", "initial_lr", "max_lr", "min_lr")
"""Where a parameter group and torch's schedules keep learning rates."""


class FreezingCallback(L.Callback):
    """Lets each stage train when its time has come, and sees to it that it stands still until then.

    What trains, and by how much rates are multiplied, follows from the epoch alone. Every frozen stage is held to
    the bits that it had when it was frozen, from the start of the run on: the digests travel in the checkpoints, and
    are compared when a run is resumed, when a phase begins, and when training ends. Put it before callbacks that
    look at learning rates. The module needs a `network`.

    Args:
        schedule: Freeze schedule of the network.

    Attributes:
        schedule: As given.
        verified: whether frozen stages were compared at the end of training, and none had changed.
        untouched: the stages that trained in no epoch up to the last one; filled when training ends.
    """

    def __init__(self, schedule: FreezeSchedule) -> None:
        self.schedule = schedule
        self.verified = False
        self.untouched: tuple[str, ...] = ()
        self._contract = FreezeContract()
        self._phase: Phase | None = None

    @property
    def never_trained(self) -> tuple[str, ...]:
        """The stages that train in no epoch of the run."""
        return self.schedule.never_trained

    def state_dict(self) -> dict[str, Any]:
        """The digests of what is frozen."""
        return {"digests": self._contract.digests}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Hold the run to what it was begun with."""
        self._contract.digests = dict(state_dict["digests"])

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """See to it that phases can begin here.

        Raises:
            UserError: the strategy divides parameters among processes.
        """
        if len(self.schedule.phases) > 1 and (is_sharded(trainer) or not _is_known(trainer)):
            raise UserError(
                f"trainer.strategy={type(trainer.strategy).__name__} cannot unfreeze stages later: take auto or ddp, "
                "or set model.phases and model.unfreeze_every to null"
            )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin the phase of this epoch, also in its middle, where a run goes on."""
        epoch = trainer.current_epoch
        if trainer.max_epochs is not None and trainer.max_epochs > 0:  # a run that is over begins no phase
            epoch = min(epoch, trainer.max_epochs - 1)
        self._begin(trainer, pl_module, self.schedule.at(epoch))

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin the phase of this epoch, if it is another."""
        phase = self.schedule.at(trainer.current_epoch)
        if phase is not self._phase:
            self._begin(trainer, pl_module, phase)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare what is frozen with what it was, after all that other callbacks do at the end of training.

        Raises:
            UserError: a frozen stage has changed.
        """
        self.verify(trainer, pl_module)
        self.untouched = self.schedule.untouched(max(0, trainer.current_epoch - 1))
        self.verified = _is_known(trainer) and self._contract.covers(_network(pl_module), self.untouched)
        planned = [phase.epoch for phase in self.schedule.phases if phase.epoch < (trainer.max_epochs or 0)]
        missed = [epoch for epoch in planned if epoch > 0 and epoch >= trainer.current_epoch]
        if missed and trainer.is_global_zero:
            log.warning("training ended before the phase that was to begin after %d epochs", missed[0])

    def verify(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare what is frozen with what it was; every process raises if one finds a difference.

        Raises:
            UserError: a frozen stage has changed.
        """
        if not _is_known(trainer):
            return
        changed = self._contract.changed(_network(pl_module))
        if trainer.strategy.reduce_boolean_decision(bool(changed), all=False):
            raise UserError(broken(changed))

    def verify_tested(self, network: Network) -> None:
        """Compare the checkpoint that is about to be tested with the start, in all stages that never trained.

        Raises:
            UserError: a frozen stage has changed.
        """
        if self.verified and (changed := self._contract.changed(network, self.untouched)):
            raise UserError(f"In the best checkpoint: {broken(changed)}")

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


class FreezeContract:
    """Digests of the frozen stages' parameters and buffers, by their names in the network.

    Attributes:
        digests: of what is frozen; plain strings, for a checkpoint.
    """

    def __init__(self) -> None:
        self.digests: dict[str, str] = {}

    def hold(self, network: Network) -> None:
        """Take the digests of stages that are newly frozen; keep those of the others that are, drop the rest."""
        frozen = _tensors(network, network.frozen_stages)
        self.digests = {name: self.digests.get(name) or digest(whole(tensor)) for name, tensor in frozen.items()}

    def changed(self, network: Network, stages: Collection[str] | None = None) -> list[str]:
        """The names of the tensors that are not what they were, in these stages; None: in all that are held."""
        now = _tensors(network, network.stages if stages is None else stages)
        held = {name: value for name, value in self.digests.items() if stages is None or name.split(".")[1] in stages}
        return [name for name, value in held.items() if name not in now or digest(whole(now[name])) != value]

    def covers(self, network: Network, stages: Collection[str]) -> bool:
        """Whether every tensor of these stages is held."""
        return _tensors(network, stages).keys() <= self.digests.keys()


def scale_rates(optimizer: Optimizer, schedulers: Iterable[Any], factor: float) -> None:
    """Multiply all learning rates by `factor`, relative to what they were without one, however often this is called.

    Each group keeps the factor in effect as `phase_factor`, which is saved with it. What the schedules of
    `opsin.training.optim` and of torch multiply (`base_lrs`) is scaled alike, so that they go on as they would have.
    """
    ratios = [factor / group.get("phase_factor", 1.0) for group in optimizer.param_groups]
    for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
        if ratio != 1:
            group |= {key: group[key] * ratio for key in RATES if key in group}
        group["phase_factor"] = factor
    for scheduler in schedulers:
        if scheduler.optimizer is optimizer and hasattr(scheduler, "base_lrs"):
            scheduler.base_lrs = [rate * ratio for rate, ratio in zip(scheduler.base_lrs, ratios, strict=True)]


def wrap_again(trainer: L.Trainer) -> None:
    """Let DistributedDataParallel see which parameters now require gradients: it looks only when it is made.

    One that searches for unused parameters in every step would need no new wrapper, but costs time in every step.
    """
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy):
        old = strategy.model
        assert isinstance(old, DistributedDataParallel)
        # They would average gradients a second time for as long as the old wrapper is not collected.
        old._remove_autograd_hooks()  # type: ignore[no-untyped-call]
        strategy.model = trainer.lightning_module
        strategy.configure_ddp()


def announcement(network: Network, phase: Phase, before: Collection[str]) -> str:
    """One line about a phase that begins."""
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


def broken(changed: Collection[str]) -> str:
    """What is said of frozen tensors that have changed."""
    names = list(changed) or ["a tensor in another process"]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (
        f"Frozen parameters or buffers have changed since they were frozen: {', '.join(names[:3])}{more}. "
        "Something writes to them beside the optimizer, such as a callback, a hook or a layer of your own: "
        "take it out, or let their stage train (model.trainable)"
    )


def _tensors(network: Network, stages: Iterable[str]) -> dict[str, Tensor]:
    """Parameters and buffers of some stages, those that are not saved among them."""
    return {
        f"stages.{stage}.{name}": tensor
        for stage in stages
        for kind in (network.stages[stage].named_parameters(), network.stages[stage].named_buffers())
        for name, tensor in kind
    }


def _network(module: L.LightningModule) -> Network:
    network = module.network
    assert isinstance(network, Network)
    return network


def _is_known(trainer: L.Trainer) -> bool:
    """Whether every process can see every parameter whole, as with these strategies, but not all made of them."""
    return type(trainer.strategy) in (SingleDeviceStrategy, DDPStrategy, Sharded)
