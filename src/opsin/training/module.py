"""The LightningModule: one network, one loss, one optimizer, and what is measured."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from opsin.errors import UserError
from opsin.models.network import Network, as_embedding
from opsin.training.callbacks.base import epoch_metrics
from opsin.training.distillation import Distillation
from opsin.training.gather import of_all_processes
from opsin.training.loss import ClassificationLoss
from opsin.training.metrics import SplitMetrics
from opsin.training.optim.config_values import apply_config, group_options, mark_configured

OptimizerFactory = Callable[[nn.Module], Optimizer]
ScheduleFactory = Callable[[Optimizer, int, int], list[dict[str, Any]]]


class Classifier(L.LightningModule):
    """Trains a network to tell classes apart.

    Batches are `opsin.data.Batch`es. All randomness of a training step follows from the batch's own key, so that a
    run that was cut off goes on with the very steps it would have taken.

    Args:
        network: images `(N, C, H, W)` to logits `(N, loss.num_logits)`.
        loss: knows the number of classes and whether one logit serves two of them.
        num_images: size of each split, for the metrics.
        optimizer: makes the optimizer of a network.
        schedule: takes an optimizer, the total number of steps and the steps per epoch; gives Lightning's scheduler
            configs (see `opsin.training.optim.lr_schedules`).
        record: plain values that every checkpoint carries under the key `opsin`: classes, input, config.
        distillation: the loss on batches that bring what a teacher makes of them; None: there is no teacher.

    Attributes:
        confusion: confusion matrix `(C, C)` of each split that was measured, true classes in rows.
        outputs: of val and test, what the last evaluation gave: positions `(B,)` and logits `(B, L)` of each batch.
    """

    def __init__(
        self,
        network: Network,
        loss: ClassificationLoss,
        *,
        num_images: Mapping[str, int],
        optimizer: OptimizerFactory,
        schedule: ScheduleFactory,
        record: Mapping[str, Any] | None = None,
        distillation: Distillation | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.loss = loss
        self.distillation = distillation
        for split in ("train", "val", "test"):
            measure = SplitMetrics(loss.num_classes, num_images.get(split, 0))
            self.add_module(f"{split}_metrics", measure)
        self.confusion: dict[str, Tensor] = {}
        self.outputs: dict[str, list[tuple[Tensor, Tensor]]] = {"val": [], "test": []}
        self._make_optimizer = optimizer
        self._make_schedule = schedule
        self._record = dict(record or {})
        self._restored: dict[str, Any] | None = None
        self._configured: list[dict[str, Any]] = []

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; the name of the hook under way, which Lightning sets forty times a step, the quick way."""
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(N, num_logits)` of normalised images `(N, C, H, W)`."""
        return self.network(images)  # type: ignore[no-any-return]

    def configure_optimizers(self) -> Any:
        """The optimizer, and its schedules over the steps that this trainer will take."""
        optimizer = self._make_optimizer(self.network)
        mark_configured(optimizer)
        total = int(self.trainer.estimated_stepping_batches)
        per_epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        schedules = self._make_schedule(optimizer, total, max(1, per_epoch))
        self._configured = group_options(optimizer)
        return [optimizer], schedules

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Dropout and the like draw from the batch's key, not from what came before it."""
        # Only where this trains: torch.manual_seed takes a traceback for every accelerator that torch was built for and
        # that is not in use, milliseconds per step, and keeps them all.
        torch.default_generator.manual_seed(batch.key)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(batch.key)
        elif self.device.type == "mps":
            torch.mps.manual_seed(batch.key)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        return self._step("train", batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Measure one batch of the validation split."""
        self._step("val", batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Measure one batch of the test split."""
        self._step("test", batch)

    def _step(self, split: str, batch: Any) -> Tensor:
        logits, loss = self._learn(batch)
        self._measure(split).update(logits, batch.targets, loss)
        if split in self.outputs:
            self.outputs[split].append((batch.positions, logits.detach()))
        return self._with_auxiliary(loss, batch)

    def _with_auxiliary(self, loss: Tensor, batch: Any) -> Tensor:
        """The loss to train on: with that of an auxiliary head, where there is one. It is no part of the metrics."""
        auxiliary = getattr(self.network, "auxiliary", None)
        if auxiliary is None or (logits := auxiliary.take_logits()) is None:
            return loss
        labels = 1.0
        if self.distillation is not None and batch.teacher_outputs is not None:
            labels = self.distillation.weights.labels
        total: Tensor = loss + auxiliary.weight * labels * self.loss(logits, batch.targets)
        return total

    def _learn(self, batch: Any) -> tuple[Tensor, Tensor]:
        images = batch.images.to(self.dtype)  # as the weights are, should trainer.precision have changed them
        if self.distillation is None or batch.teacher_outputs is None:
            logits = self.network(images, after=batch.features_of)
            return logits, self.loss(logits, batch.targets)
        step = self.network.embedding_step
        features = self.network.forward_features(images, step, batch.features_of)
        logits = self.network(features, after=step)
        labels = self.loss(logits, batch.targets)
        return logits, self.distillation(as_embedding(features), logits, batch.teacher_outputs, labels)

    def on_train_start(self) -> None:
        """Resume the epoch's metrics where the checkpoint left them, with the optimizer options of the config."""
        schedulers = [config.scheduler for config in self.trainer.lr_scheduler_configs]
        apply_config(self.trainer.optimizers[0], schedulers, self._configured)
        if self._restored is not None:
            self._measure("train").restore(self._restored, self.device)
            self._restored = None

    def on_train_epoch_end(self) -> None:
        """Log the epoch's training metrics, and let the plateau schedule see them before a checkpoint is written."""
        self._log("train")
        values = epoch_metrics(self.trainer)
        for config in self.trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, ReduceLROnPlateau) and config.monitor in values:
                config.scheduler.step(values[config.monitor])

    def on_validation_epoch_start(self) -> None:
        """Forget what the last validation gave."""
        self.outputs["val"] = []

    def on_test_epoch_start(self) -> None:
        """Forget what the last test gave."""
        self.outputs["test"] = []

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics."""
        self._log("val")

    def on_test_epoch_end(self) -> None:
        """Log the test metrics."""
        self._log("test")

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step all schedules but the plateau: Lightning would step that after the epoch's checkpoint is written."""
        if not isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the record, and the metrics of the epoch under way; plain values and tensors only."""
        checkpoint["opsin"] = self._record
        progress = move_data_to_device(self._measure("train").progress(), "cpu")
        checkpoint["train_metrics"] = of_all_processes(progress)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the metrics of the epoch under way until training starts and the device is known."""
        kept = checkpoint.get("train_metrics")
        # By rank; another number of processes, and checkpoints of earlier versions, begin to gather anew.
        if isinstance(kept, list) and len(kept) == self.trainer.world_size:
            self._restored = kept[self.trainer.global_rank]

    def _measure(self, split: str) -> SplitMetrics:
        measure = self.get_submodule(f"{split}_metrics")
        assert isinstance(measure, SplitMetrics)
        return measure

    def _log(self, split: str) -> None:
        scalars, confusion = self._measure(split).compute()
        if scalars:
            self.confusion[split] = confusion
            self.log_dict({f"{split}/{name}": value for name, value in scalars.items()}, rank_zero_only=False)


def load_network(network: Network, checkpoint: Path) -> None:
    """Put the weights of a checkpoint into a run's network, every tensor of it.

    Raises:
        UserError: there is no such checkpoint.
    """
    if not checkpoint.exists():
        raise UserError(
            f"{checkpoint} does not exist: the run has not come to the end of its first epoch; "
            f"go on with it by python train.py resume={checkpoint.parent.parent}"
        )
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    prefix = "network."
    weights = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
    network.load_state_dict(weights, strict=True)
