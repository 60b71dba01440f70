"""From a checked config to the objects of a run: the one place where data and networks meet."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from torch.optim import Optimizer

from opsin.config import RunConfig
from opsin.config.validation import Node, Section, check
from opsin.data import Augmentation, ImageDataModule
from opsin.errors import UserError
from opsin.models import LoadedWeights, Network, Weights, weights_facts
from opsin.models.fine_tuning import FineTuning, FreezeSchedule
from opsin.runs.directory import RunDirectory
from opsin.runs.result import DataFacts, ImageFormat
from opsin.training.callbacks import Checkpoints
from opsin.training.distillation import Distillation, DistillationWeights
from opsin.training.feature_cache import FeatureCache
from opsin.training.freezing import FreezingCallback
from opsin.training.hardware import Layout, lay_out
from opsin.training.loss import ClassificationLoss
from opsin.training.module import Classifier
from opsin.training.optim import parameter_groups
from opsin.training.trainer import make_trainer

INPUT_FACTS = ("image_size", "mean", "std", "interpolation")
"""What pretrained weights say about the images that they expect."""


def monitor(
    metric: Literal[
        "val/loss",
        "val/acc",
        "val/f1_macro",
        "val/auroc",
        "val/ece",
        "train/loss",
        "train/acc",
        "train/f1_macro",
        "train/auroc",
        "train/ece",
    ],
    mode: Literal["min", "max"],
) -> None:
    """The metric that tells the best epoch; never one of the test set."""


class Declared(BaseModel):
    """The top-level keys that are no sections."""

    model_config = ConfigDict(extra="forbid")

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    data_dir: str
    output_dir: str
    resume: str | None = None
    test: bool = True
    report: bool = True


def _given(*names: str) -> frozenset[str]:
    return frozenset(names)


SECTIONS = {
    "datamodule": Section(beside=ImageDataModule, given_beside=_given("source", "augmentation", "seed", "channels")),
    "model": Section(
        beside=FineTuning,
        given=_given("num_logits", "in_channels", "image_size"),
    ),
    "augmentation": Section(given=_given("num_classes")),
    "loss": Section(call=ClassificationLoss, given=_given("class_counts")),
    "distillation": Section(call=DistillationWeights),
    "feature_cache": Section(call=FeatureCache),
    "optimizer": Section(
        beside=parameter_groups,
        given=_given("params"),
        given_beside=_given("network", "backbone_lr_factor", "layer_decay", "stages"),
    ),
    "scheduler": Section(given=_given("optimizer", "total_steps", "steps_per_epoch")),
    "trainer": Section(
        beside=lay_out,
        given=_given("callbacks", "loggers", "folder"),
        given_beside=_given("network", "accelerator"),
    ),
    "callbacks": Section(many=True, given=_given("run")),
    "logger": Section(many=True, given=_given("run", "save_dir", "resume_step")),
    "monitor": Section(call=monitor),
}


@dataclass(frozen=True)
class Plan:
    """A config that has been checked: nodes to build from, by section."""

    nodes: Mapping[str, Any]
    seed: int
    test: bool
    report: bool

    def __getitem__(self, section: str) -> Node:
        node = self.nodes[section]
        assert isinstance(node, Node)
        return node

    def many(self, section: str) -> list[Node]:
        """The named nodes of a section, in their order."""
        return list(self.nodes[section].values())


def plan(composed: RunConfig) -> Plan:
    """Check a composed config as a whole, before anything is loaded.

    Raises:
        UserError: names every key that is wrong.
    """
    nodes, declared = check(composed.tree, SECTIONS, Declared, composed.origin)
    assert isinstance(declared, Declared)
    metric, mode = nodes["monitor"].arguments["metric"], nodes["monitor"].arguments["mode"]
    if mode != (better := "min" if metric.endswith(("/loss", "/ece")) else "max"):
        raise UserError(
            f"monitor.mode={mode} would take the worst epoch for the best: {metric} needs monitor.mode={better}"
        )
    if not any(node.call is Checkpoints for node in nodes["callbacks"].values()):
        raise UserError(
            "callbacks: a run needs opsin.training.callbacks.Checkpoints, because the best epoch is what is tested"
        )
    if epochs := nodes["trainer"].arguments.get("max_epochs"):
        FineTuning(**nodes["model"].beside).check_length(epochs)
    return Plan(nodes, declared.seed, declared.test, declared.report)


def data(plan: Plan, image_format: ImageFormat | None = None) -> ImageDataModule:
    """The datamodule, with the input that the network and its weights expect.

    Args:
        plan: the checked config.
        image_format: the images that a trained network expects; None: as the config and pretrained weights say.
    """
    node = plan["datamodule"]
    source = node.build()
    options = {key: value for key, value in node.beside.items() if value is not None}
    if not plan["model"].takes("in_channels"):
        options["channels"] = 3  # grey images are repeated for RGB networks
    if image_format:
        options |= asdict(image_format)
    else:
        options = _expected_input(plan["model"]) | options
    augmentation: Augmentation = plan["augmentation"].build(num_classes=len(source.classes))
    return ImageDataModule(source, augmentation=augmentation, seed=plan.seed, **options)


def _expected_input(model: Node) -> dict[str, Any]:
    """The input that a model's pretrained weights were trained with; empty where there are none."""
    weights = model.beside.get("weights", "none")
    if weights == "none":
        return {}
    run = RunDirectory(Path(weights))
    if run.config.exists():
        return {key: getattr(recorded_data(run), key) for key in INPUT_FACTS}
    facts: Weights | None = weights_facts(model.call, weights, model.arguments)
    return {key: getattr(facts, key.replace("image_", "")) for key in INPUT_FACTS} if facts else {}


def recorded_data(run: RunDirectory) -> DataFacts:
    """Return the facts that a run recorded about its data.

    Raises:
        UserError: The run ended before its data were ready, its result is damaged, or another version wrote it.
    """
    facts = run.read_result().data
    if facts is None:
        raise UserError(f"{run.path} ended before its data were ready: there is nothing to resume or to evaluate")
    return facts


def check_same_data(data: ImageDataModule, recorded: DataFacts) -> None:
    """See to it that images are still those that a run was begun with.

    Raises:
        UserError: they are not, so that the splits would be others and no number could be compared.
    """
    if data.facts()["fingerprint"] != recorded.fingerprint:
        raise UserError(
            f"The images of {data.source.name} are not those that the run was begun with: files were added, removed or "
            "changed, and images that were trained on could now be in the test set. Put them back, or start a new run."
        )


def loss(plan: Plan, data: ImageDataModule) -> ClassificationLoss:
    """The loss, which knows how many logits the network needs."""
    return plan["loss"].build(class_counts=data.facts()["class_counts"]["train"])  # type: ignore[no-any-return]


def network(
    plan: Plan, data: ImageDataModule, num_logits: int, pretrained: bool = True
) -> tuple[Network, LoadedWeights | None]:
    """The network for these data, its pretrained weights loaded and its frozen stages frozen.

    Args:
        plan: the checked config.
        data: tells channels and size of the images.
        num_logits: outputs of the head.
        pretrained: whether to load the weights that the config names; without, all are random.
    """
    node = plan["model"]
    built = node.build(num_logits=num_logits, in_channels=data.channels, image_size=data.image_size)
    return built, FineTuning(**node.beside).apply(built, pretrained)


def timeline(plan: Plan, network: Network) -> FreezeSchedule:
    """What of a network trains in which epoch of this run."""
    return FineTuning(**plan["model"].beside).timeline(network, plan["trainer"].arguments.get("max_epochs"))


def classifier(
    plan: Plan,
    data: ImageDataModule,
    network: Network,
    loss: ClassificationLoss,
    record: Mapping[str, Any],
    distillation: Distillation | None = None,
) -> Classifier:
    """The LightningModule around a network."""
    stages = timeline(plan, network).ever_trained

    def optimizer(network: nn.Module) -> Optimizer:
        node = plan["optimizer"]
        transfer = FineTuning(**plan["model"].beside)
        groups = parameter_groups(
            network,
            backbone_lr_factor=transfer.backbone_lr_factor,
            layer_decay=transfer.layer_decay,
            stages=stages,
            **node.beside,
        )
        if not groups:
            raise UserError("model.trainable leaves nothing to train: take model.trainable=head or more")
        if distillation is not None:
            rate = next(group["lr"] for group in groups if group["name"].startswith("head"))
            taught = {"params": list(distillation.parameters()), "lr": rate, "weight_decay": 0.0}
            groups.append({"name": "distillation", **taught})
        fused = {"fused": True} if node.takes("fused") and "fused" not in node.arguments else {}
        return node.build(params=groups, **fused)  # type: ignore[no-any-return]

    def schedule(optimizer: Optimizer, total_steps: int, steps_per_epoch: int) -> list[dict[str, Any]]:
        given = {"optimizer": optimizer, "total_steps": total_steps, "steps_per_epoch": steps_per_epoch}
        return plan["scheduler"].build(**given)  # type: ignore[no-any-return]

    return Classifier(
        network,
        loss,
        num_images=data.facts()["counts"],
        optimizer=optimizer,
        schedule=schedule,
        record=record,
        distillation=distillation,
    )


def trainer(
    plan: Plan, run: RunDirectory, resume_step: int | None = None, unfreezing: FreezingCallback | None = None
) -> L.Trainer:
    """The trainer of a run, with its callbacks and loggers."""
    callbacks = [node.build(run=run) for node in plan.many("callbacks")]
    if unfreezing:
        callbacks.insert(0, unfreezing)  # before those that look at learning rates
    if not plan.many("logger"):  # this one has nowhere to write
        callbacks = [callback for callback in callbacks if not isinstance(callback, LearningRateMonitor)]
    loggers = [node.build(run=run, save_dir=str(run.path), resume_step=resume_step) for node in plan.many("logger")]
    return plan["trainer"].build(callbacks=callbacks, loggers=loggers, folder=run.path)  # type: ignore[no-any-return]


def evaluator(plan: Plan, run: RunDirectory) -> L.Trainer:
    """A trainer that only measures: one device, no callbacks, no loggers; everything else as in the run."""
    arguments = dict(plan["trainer"].arguments)
    there = {"gpu": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(arguments.get("accelerator", "auto"), True):  # a run goes from machine to machine
        arguments["accelerator"] = "auto"
    arguments |= {"devices": 1, "num_nodes": 1, "strategy": "auto", "profiler": None}
    return make_trainer(**arguments, callbacks=[], loggers=[], folder=run.path)


def layout(plan: Plan, network: Network) -> Layout:
    """Lay the network out for the hardware."""
    node = plan["trainer"]
    return lay_out(network, node.arguments.get("accelerator", "auto"), **node.beside)
