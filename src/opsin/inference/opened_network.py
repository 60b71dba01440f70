"""Open the network of a run with trained weights: its images are not needed, and Lightning is not loaded."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

from opsin.config import RunConfig, from_saved
from opsin.config.overrides import key_of
from opsin.errors import UserError
from opsin.models import Network, load_weights
from opsin.models.load_weights import OTHER_DIVISION
from opsin.runs.checkpoint_files import choose_checkpoint
from opsin.runs.directory import RunDirectory
from opsin.runs.result import WAY_OUT, DataFacts
from opsin.training.network_building import new_network, recorded_data
from opsin.training.plan import NetworkPlan, make_network_plan
from opsin.training.same_numerics import EMULATED, evaluation_options, is_emulated
from opsin.training.trainer import TrainerOptions

P = TypeVar("P", bound=NetworkPlan)

log = logging.getLogger(__name__)

TRAINING_SECTIONS = ("augmentation", "callbacks", "distillation", "feature_cache", "logger", "optimizer", "scheduler")
"""Sections of a config that only a training reads."""

TRAINING_OPTIONS = (
    *("accumulate_grad_batches", "check_val_every_n_epoch", "gradient_checkpointing", "gradient_clip_norm"),
    *("limit_train_batches", "max_epochs", "max_steps", "max_time", "on_oom", "val_check_interval"),
)
"""Keys of `trainer` that only a training reads."""


@dataclass(frozen=True)
class OpenedNetwork:
    """The network of a run that has recorded its data. It is loaded when it is first used.

    Attributes:
        directory: The run directory.
        config: The saved config, with overrides applied.
        plan: The checked config. Recorded threads and precision replace `auto`.
        data_facts: Facts that the run recorded about its data.
        checkpoint: `best`, `last`, or the path of a checkpoint.
    """

    directory: RunDirectory
    config: RunConfig
    plan: NetworkPlan
    data_facts: DataFacts
    checkpoint: str = "best"

    def warn_if_emulated(self) -> None:
        """Warn if `auto` stands for bfloat16, and this processor has no instructions for it."""
        chosen = self.config.tree["trainer"].get("precision", TrainerOptions.precision)
        if chosen == "auto" and is_emulated(self.plan.trainer):
            log.warning("%s", EMULATED)

    @cached_property
    def network(self) -> Network:
        """The network with the weights of the checkpoint.

        Raises:
            UserError: See `network_for`.
        """
        return self.network_for(self.data_facts.image_size)[0]

    def network_for(self, image_size: tuple[int, int]) -> tuple[Network, bool]:
        """Return the network for images of another size, and whether its head has the weights of the run.

        A head that flattens its input fits one image size only.

        Args:
            image_size: (height, width) in pixels.

        Raises:
            UserError: The checkpoint is missing or damaged, or the network has other layers now.
        """
        file = choose_checkpoint(self.directory, self.checkpoint)
        network = self._new_network(image_size)
        has_head = load_weights(network, str(file)).head
        if not has_head and image_size == self.data_facts.image_size:
            raise UserError(f"{file} does not fit the head of {network.name}: {OTHER_DIVISION}")
        return network, has_head

    def _new_network(self, image_size: tuple[int, int]) -> Network:
        facts = self.data_facts
        loss = self.plan.loss.build(class_counts=facts.class_counts["train"])
        return new_network(self.plan, loss.num_logits, facts.channels, image_size)


def open_network(run: RunDirectory, overrides: Sequence[str] = ()) -> OpenedNetwork:
    """Open the network of a run with its best checkpoint; the other sections of its config are not checked.

    Args:
        run: The run directory.
        overrides: Overrides of its config, such as `trainer.accelerator=cpu`.

    Raises:
        UserError: There is no such run, its files are damaged, another version of Opsin wrote it, or it ended before
            its data were ready.
    """
    facts, config = read_run(run, overrides)
    return OpenedNetwork(run, config, with_recorded_numerics(run, make_network_plan(config)), facts)


def with_recorded_numerics(run: RunDirectory, plan: P) -> P:
    """Return a plan in which the recorded threads and precision of its run replace `auto`."""
    return replace(plan, trainer=evaluation_options(plan.trainer, run.read_result().settings))


def read_run(run: RunDirectory, overrides: Sequence[str]) -> tuple[DataFacts, RunConfig]:
    """Return the recorded data facts and the saved config of a run.

    Raises:
        UserError: There is no such run, or its files cannot be used.
    """
    if not run.config.is_file():
        raise UserError(f"{run.path} is not a run directory: it has no {run.config.name}")
    facts = recorded_data(run)  # first: a run of another version is refused before its config is read
    config = from_saved(run, overrides)
    _refuse_training_keys(run, overrides)
    if len(facts.class_counts.get("train", ())) != len(facts.classes):
        raise UserError(f"{run.result} is damaged (data.class_counts.train is not of the classes): {WAY_OUT}")
    return facts, config


def _refuse_training_keys(run: RunDirectory, overrides: Sequence[str]) -> None:
    """Refuse overrides that have an effect on a training only.

    Raises:
        UserError: An override is one of them.
    """
    for override in overrides:
        section, _, name = key_of(override).partition(".")
        if section in TRAINING_SECTIONS or (section == "trainer" and name in TRAINING_OPTIONS):
            raise UserError(f"{override} has an effect on a training only, and {run.path} is trained: leave it out")
