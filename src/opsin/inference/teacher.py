"""Build the distillation loss of `model.teacher`; the outputs of the teacher are computed once."""

from dataclasses import asdict

import lightning as L
import torch

from opsin.data import Augmentation, ImageDataModule
from opsin.data.types import Split
from opsin.errors import UserError
from opsin.inference.trained_model import load_trained_model
from opsin.models import Network
from opsin.training.distillation import Distillation, DistillationWeights
from opsin.training.plan import RunPlan

SPLITS: tuple[Split, Split] = ("train", "val")


def check_options(plan: RunPlan) -> None:
    """Check that a run without a teacher sets no options of the distillation loss.

    Raises:
        UserError: An option differs from its default.
    """
    if plan.fine_tuning.teacher is not None:
        return
    given, default = asdict(plan.distillation), asdict(DistillationWeights())
    unused = [f"distillation.{key}={value}" for key, value in given.items() if value != default[key]]
    if unused:
        raise UserError(
            f"{', '.join(unused)}: without a teacher this has no effect. Set model.teacher to a run directory or a "
            "network with ImageNet weights, or leave it out"
        )


def distillation(plan: RunPlan, data: ImageDataModule, network: Network, trainer: L.Trainer) -> Distillation | None:
    """Return the distillation loss and give the teacher outputs to the datamodule; None if there is no teacher.

    Raises:
        UserError: The teacher does not exist, or does not match the data or the distillation options.
    """
    name = plan.fine_tuning.teacher
    if name is None:
        return None
    if isinstance(data.augmentation, Augmentation) and data.augmentation.mixes:
        raise UserError(f"model.teacher={name} needs unmixed images: set augmentation.mixup=0 and cutmix=0")
    weights = plan.distillation
    metric = plan.monitor.metric
    if not weights.trains_head and not metric.endswith("/loss"):
        raise UserError(
            f"monitor.metric={metric} measures the head, which does not train with distillation.labels=0 and "
            "distillation.logits=0: set monitor.metric=val/loss"
        )
    teacher = load_trained_model(name, weights.image_size, "model.teacher=")
    if weights.logits and (teacher.classes is None or list(teacher.classes) != list(data.source.classes)):
        raise UserError(
            f"distillation.logits={weights.logits:g}: the teacher {name} has other classes than "
            f"{data.source.name}, or another image size; set distillation.logits=0 to use only its embeddings"
        )
    extractor = teacher.extractor(trainer, logits=weights.logits > 0)
    outputs = {split: teacher.outputs(data.subset(split), extractor, data.features_dir) for split in SPLITS}
    data.use_teacher_outputs(outputs)
    size = _embedding_size(teacher.network, teacher.channels, teacher.size)
    own_size = _embedding_size(network, data.channels, data.image_size)
    return Distillation(weights, own_size, outputs["train"].mean()[:size])


def _embedding_size(network: Network, channels: int, size: tuple[int, int]) -> int:
    training = network.training
    with torch.inference_mode():
        device = next(network.parameters()).device
        embedding = network.eval().embed(torch.zeros(1, channels, *size, device=device))
    network.train(training)
    return embedding.shape[1]
