"""Options of the `sweep` section."""

from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Annotated, Any

from pydantic import Field

from opsin.errors import UserError
from opsin.sweeps.study import Pruner, Sampler, is_url


@dataclass(frozen=True)
class Sweep:
    """Options of a sweep.

    Attributes:
        name: Name of its directory, `output_dir/sweeps/NAME`; null: derived from the overrides, so that the same
            command always uses the same directory.
        space: Values by key, as on the command line (`model: mlp,cnn_gap`) or as lists; typed overrides replace them.
        sampler: `grid` runs every combination; `tpe`, `cmaes` and `random` are samplers of Optuna.
        trials: Total number of runs, which a search needs; null: the whole grid.
        pruner: Ends runs that do worse than others at the same epoch: `median` if the best value so far is worse than
            their median, `halving` if not in the best third at epoch n, 3n, 9n, ... with n = `pruner_epochs`
            (successive halving).
        pruner_epochs: First epoch after which a run may be pruned.
        objectives: Metrics of train or val, `parameters` or `seconds`; null: the monitored metric. The first
            objective ranks the table and selects the best run; for two objectives, `pareto.png` shows the Pareto front.
        storage: URL of a database for the Optuna study; null: a journal in the directory of the sweep.
        retry_failed: Run failed trials once more when the command is given again. Trials whose job was killed from
            outside are resumed in any case.
    """

    name: str | None = None
    space: dict[str, Any] = field(default_factory=dict)
    sampler: Sampler = "grid"
    trials: Annotated[int, Field(ge=1)] | None = None
    pruner: Pruner = "none"
    pruner_epochs: Annotated[int, Field(ge=1)] = 3
    objectives: list[str] | None = None
    storage: str | None = None
    retry_failed: bool = False

    def __post_init__(self) -> None:
        if self.name is not None and not _is_inside(self.name):
            raise UserError(
                f"sweep.name={self.name} is not the name of a folder in that of all sweeps: write a name such as lr or "
                "leave it out; hydra.sweep.dir sets the folder of all sweeps"
            )
        if self.objectives == []:
            raise UserError("sweep.objectives=[] names no metric: leave it out for the monitored metric")
        if self.sampler != "grid" and self.trials is None:
            raise UserError(f"sweep.sampler={self.sampler} needs a number of trials: set sweep.trials=N")
        if self.pruner != "none" and self.objectives and len(self.objectives) > 1:
            raise UserError("sweep.pruner needs one objective; leave out the others, or set sweep.pruner=none")
        if self.sampler == "cmaes" and self.objectives and len(self.objectives) > 1:
            raise UserError("sweep.sampler=cmaes optimizes one objective: use sweep.sampler=tpe for several")
        if self.storage is not None and not is_url(self.storage):
            raise UserError(f"sweep.storage={self.storage} is not the URL of a database, such as sqlite:///study.db")


def _is_inside(name: str) -> bool:
    """Return whether a path names something inside the folder that it is relative to."""
    path = PurePath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts
