"""The keys of the `sweep` section."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from opsin.errors import UserError


@dataclass(frozen=True)
class Sweep:
    """How a sweep goes through its space.

    Attributes:
        name: of its directory, `output_dir/sweeps/NAME`; null: made of the words, so that the same command always
            comes to the same directory.
        space: what varies, by key, in the words of the command line (`model: mlp,cnn_gap`); words typed count first.
        sampler: `grid` runs every combination; `tpe`, `cmaes` and `random` are Optuna's.
        trials: how many runs in all, which a search needs; null: the whole grid.
        pruner: ends runs that do worse than others at the same epoch: `median` below their median, `halving` outside
            the best third after pruner_epochs, three times as many, nine times, ... (successive halving).
        pruner_epochs: after which a run may be ended for the first time.
        objectives: metrics of train or val, `parameters` or `seconds`; null: the monitored metric. Of several, no
            one run is the best, and the table tells which are better than all others in some respect.
        storage: URL of a database for Optuna's study; null: a journal in the sweep's directory.
        retry_failed: run once more what failed, when the command is given again.
    """

    name: str | None = None
    space: dict[str, Any] = field(default_factory=dict)
    sampler: Literal["grid", "random", "tpe", "cmaes"] = "grid"
    trials: Annotated[int, Field(ge=1)] | None = None
    pruner: Literal["none", "median", "halving"] = "none"
    pruner_epochs: Annotated[int, Field(ge=1)] = 3
    objectives: list[str] | None = None
    storage: str | None = None
    retry_failed: bool = False

    def __post_init__(self) -> None:
        if self.sampler != "grid" and self.trials is None:
            raise UserError(f"sweep.sampler={self.sampler} has no end of its own: set sweep.trials=N")
        if self.pruner != "none" and self.objectives and len(self.objectives) > 1:
            raise UserError("sweep.pruner needs one objective: with several, no run is worse than the others for sure")
        if self.sampler == "cmaes" and self.objectives and len(self.objectives) > 1:
            raise UserError("sweep.sampler=cmaes optimises one objective: take sweep.sampler=tpe for several")
