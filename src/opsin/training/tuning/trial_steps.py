"""Training steps for measurements, on a separate network, without side effects on the run."""

import copy
from dataclasses import replace
from pathlib import Path

import lightning as L
from lightning.pytorch.utilities.seed import isolate_rng

from opsin.config.target_lookup import Target
from opsin.data import ImageDataModule
from opsin.errors import UserError
from opsin.training import build
from opsin.training.callbacks.base import EpochCallback
from opsin.training.lightning_trainer import make_trainer
from opsin.training.loss import ClassificationLoss
from opsin.training.network_building import prepare
from opsin.training.optim.lr_schedules import constant
from opsin.training.plan import RunPlan
from opsin.training.precision_timing import decide_precision, gradient_fault
from opsin.training.trainer import TrainerOptions


class Watch(EpochCallback):
    """A callback that observes trial steps; as a `Checkpoint` it keeps Lightning from adding its own."""


class TrialSteps:
    """Take training steps with the network, precision, memory format, augmentation and optimizer of a run.

    Each trial builds a new network and optimizer and restores the random generators afterwards, so that a following run
    is identical bit for bit. It uses one device, no torch.compile (which takes minutes to start) and no callbacks or
    loggers of the run, and writes nothing.

    Args:
        plan: The plan of the run.
        data: The datamodule after `setup("fit")`; not changed.
        loss: The loss of the run; not changed.
        folder: Root folder of the trainer; nothing is written.
    """

    def __init__(self, plan: RunPlan, data: ImageDataModule, loss: ClassificationLoss, folder: Path) -> None:
        self._plan = replace(plan, schedule=Target(constant), trainer=replace(plan.trainer, compile=False))
        self._data = data
        self._loss = loss
        self._folder = folder

    def run(
        self, watch: Watch, *, batch_size: int, steps: int, pretrained: bool = False, heaviest: bool = False
    ) -> None:
        """Take optimizer steps; `watch` may stop earlier through `trainer.should_stop`.

        Args:
            watch: The callback that observes the steps.
            batch_size: Number of images per batch.
            steps: Largest number of optimizer steps, over several epochs if needed.
            pretrained: Whether to load the weights that the config names.
            heaviest: Whether to train every stage that trains in some phase, instead of only the stages of the first
                phase.
        """
        with isolate_rng():
            data = copy.copy(self._data)
            data.augmentation, data.batch_size = copy.deepcopy(data.augmentation), batch_size
            data.release_device_cache()
            loss = copy.deepcopy(self._loss)
            network, _ = build.network(self._plan, data, loss.num_logits, pretrained=pretrained)
            if heaviest:
                network.freeze(list(build.freeze_schedule(self._plan, network).ever_trained))
            shape = (data.channels, *data.image_size)
            options, _ = decide_precision(self._plan.trainer, network, shape, data.base_batch_size)
            if fault := gradient_fault(options, network, shape, network.frozen_stages):
                raise UserError(fault)
            self._plan = replace(self._plan, trainer=options)
            prepare(self._plan, network)
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
            val_check_interval=1.0,
        )
        return make_trainer(options, callbacks=[watch], loggers=[], folder=self._folder)


def first_device(options: TrainerOptions) -> int:
    """Return the index of the accelerator on which trials run."""
    return options.devices[0] if isinstance(options.devices, list) else 0
