"""Training steps as a run would take them, on a network of their own, which leave no trace."""

import copy
from dataclasses import replace
from pathlib import Path

import lightning as L
from lightning.pytorch.utilities.seed import isolate_rng

from opsin.config.targets import Target
from opsin.data import ImageDataModule
from opsin.training import build
from opsin.training.callbacks.base import EpochCallback
from opsin.training.loss import ClassificationLoss
from opsin.training.optim.lr_schedules import constant
from opsin.training.plan import RunPlan
from opsin.training.trainer import TrainerOptions, make_trainer


class Watch(EpochCallback):
    """What looks on while trial steps are taken; that it is a `Checkpoint` keeps Lightning from adding its own."""


class TrialSteps:
    """Takes training steps through the parts of a run: its network, precision, memory format, augmentation, optimizer.

    Each trial has a freshly built network and optimizer, and the generators of random numbers are put back after it, so
    that a run which follows is the same to the bit. It runs on one device, without torch.compile (which takes minutes
    to begin), without the run's callbacks and loggers, and writes nothing.

    Args:
        plan: the run's.
        data: set up for fitting; not changed.
        loss: the run's; not changed.
        folder: where Lightning would write if it did.
    """

    def __init__(self, plan: RunPlan, data: ImageDataModule, loss: ClassificationLoss, folder: Path) -> None:
        self._plan = replace(plan, schedule=Target(constant), trainer=replace(plan.trainer, compile=False))
        self._data = data
        self._loss = loss
        self._folder = folder

    def run(
        self, watch: Watch, *, batch_size: int, steps: int, pretrained: bool = False, heaviest: bool = False
    ) -> None:
        """Take up to so many optimizer steps; `watch` may end them sooner by `trainer.should_stop`.

        Args:
            watch: is called as any callback.
            batch_size: images of a step.
            steps: optimizer steps at most; epochs follow one another until they are done.
            pretrained: whether the network takes up the weights that the config names.
            heaviest: whether all stages train that will do so in any phase of the run, and not only those of the first.
        """
        with isolate_rng():
            data = copy.copy(self._data)
            data.augmentation, data.batch_size = copy.deepcopy(data.augmentation), batch_size
            data.release_device_cache()
            loss = copy.deepcopy(self._loss)
            network, _ = build.network(self._plan, data, loss.num_logits, pretrained=pretrained)
            if heaviest:
                network.freeze(list(build.freeze_schedule(self._plan, network).ever_trained))
            build.prepare(self._plan, network)
            classifier = build.classifier(self._plan, data, network, loss, record={})
            self._trainer(watch, steps).fit(classifier, data)

    def _trainer(self, watch: Watch, steps: int) -> L.Trainer:
        devices = self._plan.trainer.devices
        options = replace(
            self._plan.trainer.on_one_device(),
            devices=[first_device(self._plan.trainer)] if isinstance(devices, list) else 1,
            max_epochs=10**6,
            max_steps=steps,
            max_time=None,
            limit_train_batches=1.0,
            limit_val_batches=0,
            check_val_every_n_epoch=1,
        )
        return make_trainer(options, callbacks=[watch], loggers=[], folder=self._folder)


def first_device(options: TrainerOptions) -> int:
    """Return the index of the accelerator on which trials run."""
    return options.devices[0] if isinstance(options.devices, list) else 0
