"""Open a run: its config, its plan, its data facts, its images and its network with the best weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from opsin.data import ImageDataModule
from opsin.inference.opened_network import OpenedNetwork, read_run, with_recorded_numerics
from opsin.runs.directory import RunDirectory
from opsin.runs.garbage_collection import resume_collection
from opsin.training import build
from opsin.training.plan import RunPlan, make_plan
from opsin.training.run_warnings import known_warnings


@dataclass(frozen=True)
class OpenedRun(OpenedNetwork):
    """A run that has recorded its data. Images and network are loaded when they are first used.

    Attributes:
        plan: The checked config, with all its sections; `auto` threads and precision are replaced by the recorded ones.
    """

    plan: RunPlan

    @cached_property
    def data(self) -> ImageDataModule:
        """The images, in the format of the run.

        Raises:
            UserError: The images are missing, or are not those that the run was trained on.
        """
        with known_warnings(self.directory.read_result().warnings):
            data = build.data(self.plan, image_format=self.data_facts.image_format)
            build.check_same_data(data, self.data_facts)
        return data


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
    resume_collection()
    facts, config = read_run(run, overrides)
    return OpenedRun(run, config, with_recorded_numerics(run, make_plan(config)), facts, checkpoint)
