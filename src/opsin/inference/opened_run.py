"""Open a run: its config, its plan, its data facts, its images and its network with the best weights."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from opsin.config import RunConfig, from_saved
from opsin.data import ImageDataModule
from opsin.errors import UserError
from opsin.models import Network, load_weights
from opsin.runs.checkpoint_files import choose_checkpoint
from opsin.runs.directory import RunDirectory
from opsin.runs.result import DataFacts
from opsin.training import build
from opsin.training.plan import RunPlan, make_plan
from opsin.training.same_numerics import EMULATED, evaluation_options, is_emulated

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenedRun:
    """A run that has recorded its data. Images and network are loaded when they are first used.

    Attributes:
        directory: The run directory.
        config: The saved config, with overrides applied.
        plan: The checked config, with the recorded threads and precision in the place of `auto`.
        data_facts: Facts that the run recorded about its data.
        checkpoint: `best`, `last`, or the path of a checkpoint.
    """

    directory: RunDirectory
    config: RunConfig
    plan: RunPlan
    data_facts: DataFacts
    checkpoint: str = "best"

    def warn_if_emulated(self) -> None:
        """Warn if `auto` stands for bfloat16, and this processor has no instructions for it."""
        if self.config.tree["trainer"]["precision"] == "auto" and is_emulated(self.plan.trainer):
            log.warning("%s", EMULATED)

    @cached_property
    def data(self) -> ImageDataModule:
        """The images, in the format of the run.

        Raises:
            UserError: The images are missing, or are not those that the run was trained on.
        """
        data = build.data(self.plan, image_format=self.data_facts.image_format)
        build.check_same_data(data, self.data_facts)
        return data

    @cached_property
    def network(self) -> Network:
        """The network with the weights of the checkpoint.

        Raises:
            UserError: The checkpoint is missing or damaged.
        """
        return self.network_for(self.data_facts.image_size)[0]

    def network_for(self, image_size: tuple[int, int]) -> tuple[Network, bool]:
        """Return the network for images of another size, and whether its head has the weights of the run.

        A head that flattens its input fits one image size only.

        Args:
            image_size: (height, width) in pixels.

        Raises:
            UserError: The checkpoint is missing or damaged.
        """
        file = choose_checkpoint(self.directory, self.checkpoint)
        network = self._new_network(image_size)
        return network, load_weights(network, str(file)).head

    def _new_network(self, image_size: tuple[int, int]) -> Network:
        facts = self.data_facts
        loss = self.plan.loss.build(class_counts=facts.class_counts["train"])
        return build.new_network(self.plan, loss.num_logits, facts.channels, image_size)


def open_run(run: RunDirectory, overrides: Sequence[str] = (), checkpoint: str = "best") -> OpenedRun:
    """Open a run from its directory.

    Args:
        run: The run directory.
        overrides: Overrides of its config, such as `trainer.accelerator=cpu`.
        checkpoint: The weights to load: `best`, `last`, or the path of a checkpoint.

    Raises:
        UserError: There is no such run, its files are damaged, another version of Opsin wrote it, or it ended before
            its data were ready.
    """
    if not run.config.is_file():
        raise UserError(f"{run.path} is not a run directory: it has no {run.config.name}")
    facts = build.recorded_data(run)  # first: a run of another version is refused before its config is read
    config = from_saved(run, overrides)
    plan = make_plan(config)
    options = evaluation_options(plan.trainer, run.read_result().settings)
    return OpenedRun(run, config, replace(plan, trainer=options), facts, checkpoint)
