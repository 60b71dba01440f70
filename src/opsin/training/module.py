"""The LightningModule of a run: network, loss, optimizer and metrics."""

import copy
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
from opsin.models.load_weights import OTHER_DIVISION
from opsin.models.network import Network, as_embedding
from opsin.runs.checkpoint_files import fault_of
from opsin.runs.quoting import resume_command
from opsin.training.callbacks.base import current_metrics, is_within_epoch
from opsin.training.distillation import Distillation
from opsin.training.gather import gather_from_all_processes
from opsin.training.loss import ClassificationLoss
from opsin.training.metrics import SplitMetrics
from opsin.training.optim.config_values import apply_config, group_options, lengths, mark_configured

OptimizerFactory = Callable[[nn.Module], Optimizer]
ScheduleFactory = Callable[[Optimizer, int, int], list[dict[str, Any]]]

ONE_VALUE = "Expected more than 1 value per channel when training"
"""Beginning of torch's error about a single value per channel, which a normalization layer cannot train on."""


class Classifier(L.LightningModule):
    """Train a network to classify images.

    Batches are `opsin.data.Batch`es. All randomness of a training step depends on the key of the batch, so that a
    resumed run takes the same steps as an uninterrupted one.

    Args:
        network: Images `(N, C, H, W)` to logits `(N, loss.num_logits)`.
        loss: The loss; it has the number of classes and of logits.
        num_images: Number of images of each split, for the metrics.
        optimizer: Function that returns the optimizer of a network.
        schedule: Function of an optimizer, the total number of steps and the steps per epoch; it returns the scheduler
            configs of Lightning (see `opsin.training.optim.lr_schedules`).
        record: Plain values that every checkpoint holds under the key `opsin`: classes, input, config.
        distillation: The loss on batches with teacher outputs; None without a teacher.

    Attributes:
        confusion: Confusion matrix `(C, C)` of each evaluated split, true classes in rows.
        share: Weight of the last batch in its optimizer step, times the number of batches of a step.
        outputs: Positions `(B,)` and logits `(B, L)` of each batch of the last evaluation of val and test.
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
        # The minimized loss, train/loss, and val/loss with a teacher are means over images.
        weights = {"val": None if distillation else loss.weight, "test": loss.weight}
        for split in ("train", "val", "test"):
            measure = SplitMetrics(loss.num_classes, num_images.get(split, 0), weights.get(split))
            self.add_module(f"{split}_metrics", measure)
        self.confusion: dict[str, Tensor] = {}
        self.outputs: dict[str, list[tuple[Tensor, Tensor]]] = {"val": [], "test": []}
        self.share = 1.0
        self._num_train = num_images.get("train", 0)
        self._make_optimizer = optimizer
        self._make_schedule = schedule
        self._record = dict(record or {})
        self._restored: dict[str, Any] | None = None
        self._configured: list[dict[str, Any]] = []
        self._lengths: list[dict[str, Any]] = []
        self._validated_at = -1

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; a fast path for the name of the current hook, which Lightning sets forty times per step."""
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `(N, num_logits)` of normalized images `(N, C, H, W)`."""
        return self.network(images)  # type: ignore[no-any-return]

    def configure_optimizers(self) -> Any:
        """Return the optimizer and its schedules over the steps of this trainer."""
        optimizer = self._make_optimizer(self.network)
        mark_configured(optimizer)
        total = int(self.trainer.estimated_stepping_batches)
        per_epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        schedules = self._make_schedule(optimizer, total, max(1, per_epoch))
        for config in schedules:
            if isinstance(config["scheduler"], ReduceLROnPlateau) and "monitor" in config:
                config["reduce_on_plateau"] = False  # otherwise Lightning fails after an epoch without the metric
        self._configured = group_options(optimizer)
        self._lengths = lengths(config["scheduler"] for config in schedules)
        return [optimizer], schedules

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed dropout and other random layers with the key of the batch."""
        # Seed the used device only: torch.manual_seed creates and keeps a traceback for every unused accelerator, which
        # takes milliseconds per step.
        torch.default_generator.manual_seed(batch.key)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(batch.key)
        elif self.device.type == "mps":
            torch.mps.manual_seed(batch.key)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of one batch, weighted by its share in the images of its optimizer step.

        Lightning divides the loss by `accumulate_grad_batches`, also if the step at the end of an epoch has fewer or
        smaller batches. With the weight, accumulated batches have the gradient of one large batch.

        Raises:
            UserError: A normalization layer gets a single value per channel.
        """
        try:
            loss, self.share = self._step("train", batch), 1.0
        except Exception as error:  # torch.compile raises another type of error with the same text
            if ONE_VALUE not in str(error):
                raise
            raise UserError(
                "a normalization layer of the network gets a single value per channel, from one image with maps of one "
                f"pixel: set datamodule.batch_size={2 * self.trainer.world_size} or more, or enlarge the images "
                "(datamodule.image_size)"
            ) from error
        if (accumulated := self.trainer.accumulate_grad_batches) == 1:
            return loss
        self.share = accumulated * self._share(batch_idx, accumulated)
        return loss * self.share

    def _share(self, batch_idx: int, accumulated: int) -> float:
        """Return the share of a batch in the images of its optimizer step, over all processes."""
        size, images = int(self._record.get("batch_size", 0)), self._num_train
        images -= images % self.trainer.world_size  # an epoch leaves out the rest, see `training_batches`
        if not (size and images):
            return 1 / accumulated
        first = batch_idx - batch_idx % accumulated
        end = min(first + accumulated, int(self.trainer.num_training_batches))
        whole = min(end * size, images) - first * size
        return (min((batch_idx + 1) * size, images) - batch_idx * size) / whole

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Update the metrics with one validation batch."""
        self._step("val", batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Update the metrics with one test batch."""
        self._step("test", batch)

    def _step(self, split: str, batch: Any) -> Tensor:
        logits, loss = self._learn(batch)
        self._measure(split).update(logits, batch.targets, loss)
        if split in self.outputs:
            self.outputs[split].append((batch.positions, logits.detach()))
        return self._with_auxiliary(loss, batch)

    def _with_auxiliary(self, loss: Tensor, batch: Any) -> Tensor:
        """Return the training loss: with the loss of an auxiliary head, if any, which the metrics leave out."""
        auxiliary = getattr(self.network, "auxiliary", None)
        if auxiliary is None or (logits := auxiliary.take_logits()) is None:
            return loss
        labels = 1.0
        if self.distillation is not None and batch.teacher_outputs is not None:
            labels = self.distillation.weights.labels
        total: Tensor = loss + auxiliary.weight * labels * self.loss(logits, batch.targets)
        return total

    def _learn(self, batch: Any) -> tuple[Tensor, Tensor]:
        images = batch.images.to(self.dtype)  # trainer.precision may change the type of the weights
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
        apply_config(self.trainer.optimizers[0], schedulers, self._configured, self._lengths)
        if self._restored is not None:
            self._measure("train").restore(self._restored, self.device)
            self._restored = None

    def on_train_epoch_end(self) -> None:
        """Log the training metrics, and step the plateau schedule before the checkpoint is written.

        If training stops within the epoch, the schedule does not step and the metrics are kept, because a resumed run
        trains the rest of the epoch.
        """
        measure = self._measure("train")
        collected = copy.deepcopy(measure.progress()) if is_within_epoch(self.trainer) else None
        self._log("train")
        if collected is not None:
            measure.restore(collected, self.device)
            return
        validated = self._validated_at == self.trainer.global_step
        values = current_metrics(self.trainer, ("train", "val") if validated else ("train",))
        for config in self.trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, ReduceLROnPlateau) and config.monitor in values:
                config.scheduler.step(values[config.monitor])

    def on_validation_epoch_start(self) -> None:
        """Discard the outputs of the last validation."""
        self.outputs["val"] = []

    def on_test_epoch_start(self) -> None:
        """Discard the outputs of the last test."""
        self.outputs["test"] = []

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics."""
        self._log("val")
        self._validated_at = self.trainer.global_step

    def on_test_epoch_end(self) -> None:
        """Log the test metrics."""
        self._log("test")

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step all schedules except plateau, which Lightning would step after the checkpoint is written."""
        if not isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the record and the metrics of the current epoch; plain values and tensors only."""
        checkpoint["opsin"] = self._record
        progress = move_data_to_device(self._measure("train").progress(), "cpu")
        checkpoint["train_metrics"] = gather_from_all_processes(progress)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the metrics of the current epoch until training starts and the device is known.

        If batches have become smaller (`trainer.on_oom`), the position within the epoch is that of more batches. The
        weights get the type of `trainer.precision` before they are loaded; Lightning does it later.
        """
        self.trainer.precision_plugin.convert_module(self)
        before, now = checkpoint.get("opsin", {}).get("batch_size"), self._record.get("batch_size")
        loops = checkpoint["loops"]["fit_loop"]
        if before and now and before != now:
            rescale_position(loops["epoch_loop.batch_progress"], before // now)
        reopen_epoch(loops)
        kept = checkpoint.get("train_metrics")
        # One entry per rank; with a different number of processes the metrics of the epoch start again.
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


def rescale_position(progress: dict[str, Any], factor: int) -> None:
    """Change the progress of Lightning's loop within an epoch to batches that are smaller by a factor.

    The end of an epoch stays: it is marked as such.
    """
    if progress["is_last_batch"]:
        return
    for counts in (progress["total"], progress["current"]):
        more = counts["ready"] * (factor - 1)
        counts.update({name: value + more for name, value in counts.items()})


def reopen_epoch(loops: dict[str, Any]) -> None:
    """Change the progress of Lightning's loops so that a resumed run trains the rest of an epoch.

    Lightning counts the epoch in which training stops, although `trainer.max_steps` can end it early.
    """
    if loops["epoch_loop.batch_progress"]["is_last_batch"]:
        return
    for counts in loops["epoch_progress"].values():
        counts["processed"] = counts["completed"]


def load_network(network: Network, checkpoint: Path) -> None:
    """Load all weights of a checkpoint into the network of a run.

    Raises:
        UserError: The checkpoint is missing or damaged, or the network has other layers now.
    """
    if fault := fault_of(checkpoint):
        raise UserError(f"{checkpoint} {fault}; resume the run with: {resume_command(checkpoint.parent.parent)}")
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    prefix = "network."
    weights = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
    try:
        network.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise UserError(f"{checkpoint} does not fit {network.name}: {OTHER_DIVISION}") from error
