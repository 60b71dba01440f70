"""Results of a sweep: the ranking of trials, the best run, an experiment file that repeats it, and plots.

The best run is decided in three steps:

1. A trial is compared by the value of the first objective at its best epoch. Failed and pruned trials and those whose
   value is not finite are not compared (`outcome_of` in `opsin.sweeps.outcomes`), and those whose run was deleted.
2. Runs that differ only in `seed` or `datamodule.fold` (`REPEATS`) are one recipe. A sampler can draw the same
   overrides again; of equal overrides, only the first run of the ranking counts. A recipe with fewer complete
   repetitions than another is not compared. The best recipe has the best mean (`best_runs`). If the means are equal,
   the first recipe of the ranking wins: the one whose best run is better, and then the one with the lower trial number.
   "Best" follows the direction of the metric (`opsin.runs.metric_registry`).
3. The best run is the run of this recipe with the best value, the first one if several are equal (`winner`).
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from opsin.config import RunConfig
from opsin.config.overrides import key_of
from opsin.errors import UserError
from opsin.evaluation.comparison.recipes import REPEATS
from opsin.runs.atomic import atomic_open, write_atomically
from opsin.runs.directory import RunDirectory
from opsin.runs.metric_registry import sort_key
from opsin.runs.quoting import opsin_command
from opsin.runs.result import RunResult
from opsin.sweeps.outcomes import one_line
from opsin.sweeps.search_space import Space
from opsin.sweeps.trials import Trials

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

BEST = "experiment/best.yaml"
"""File of the best run in the directory of a sweep: the option `experiment=best`."""


@dataclass(frozen=True)
class TrialRow:
    """A row of the table of trials.

    Attributes:
        number: Number of the trial.
        overrides: Overrides of the keys that vary.
        display: The same with rounded numbers.
        recipe: Overrides of the keys that vary, without `seed` and `datamodule.fold` (`REPEATS`).
        state: complete, pruned, failed, missing (complete, but somebody deleted its run), running or waiting.
        values: Values of the objectives; empty unless the trial is complete.
        reason: Reason of a failed or missing trial.
        run: Directory of the run.
        result: Result of the run.
        typed: All overrides of the run, fixed and varying; empty if they are not known.
    """

    number: int
    overrides: str
    display: str
    recipe: str
    state: str
    values: tuple[float, ...]
    reason: str
    run: RunDirectory
    result: RunResult
    typed: tuple[str, ...] = ()

    def metric(self, name: str) -> str:
        """Return the value of a metric as text; empty if the run has none."""
        value = self.result.metrics.get(name)
        return "" if value is None else f"{value:.4f}"


def ranked_rows(folder: Path, objectives: Sequence[str], trials: Trials, space: Space) -> list[TrialRow]:
    """Return the rows of all trials, sorted by the first objective, the best first."""
    states = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    rows = []
    for trial in trials.all():
        run = RunDirectory(folder / str(trial.user_attrs.get("run", "none")))
        state = states.get(trial.state.name, trial.state.name.lower())
        # Parameters are missing if a process was killed while it claimed the trial.
        known = all(dimension.key in trial.params for dimension in space.dimensions)
        overrides = space.varied(trial.params) if known else ""
        display = space.display(trial.params) if known else ""
        recipe = space.varied(trial.params, without=REPEATS) if known else ""
        reason = str(trial.user_attrs.get("reason", ""))
        if state == "complete" and not run.config.is_file():
            state, reason = "missing", "its run directory is missing or has no config.yaml, so it is not compared"
        try:
            result = run.read_result()
        except UserError as error:  # damaged: the other trials do not need it
            result, reason = RunResult(), reason or one_line(error)
            state = "missing" if state == "complete" else state
        values = tuple(trial.values) if state == "complete" else ()
        typed = space.overrides(trial.params) if known else ()
        rows.append(TrialRow(trial.number, overrides, display, recipe, state, values, reason, run, result, typed))
    return sorted(rows, key=lambda row: (sort_key(objectives[0], row.values[0] if row.values else None), row.number))


def best_runs(rows: Sequence[TrialRow], objective: str) -> list[TrialRow]:
    """Return the runs of the best recipe; none if no trial is complete.

    Runs that differ only by seed or fold are repetitions of one recipe, which is compared by its mean. Of equal
    overrides, only the first row counts. A recipe with fewer complete repetitions than another is not compared. If the
    means are equal, the first recipe in `rows` wins.

    Args:
        rows: Rows of all trials, as `ranked_rows` sorts them.
        objective: The first objective of the sweep.
    """
    recipes: dict[str, dict[str, TrialRow]] = {}
    for row in rows:
        if row.values:
            recipes.setdefault(row.recipe, {}).setdefault(row.overrides, row)
    if not recipes:
        return []
    most = max(map(len, recipes.values()))
    compared = [[*runs.values()] for runs in recipes.values() if len(runs) == most]
    return min(compared, key=lambda runs: sort_key(objective, statistics.fmean(row.values[0] for row in runs)))


def winner(rows: Sequence[TrialRow], objective: str) -> TrialRow | None:
    """Return the best run: of the runs of the best recipe, the one with the best value; None if no trial is complete.

    Args:
        rows: Rows of all trials.
        objective: The first objective of the sweep.
    """
    runs = best_runs(rows, objective)
    return min(runs, key=lambda row: (sort_key(objective, row.values[0]), row.number), default=None)


def write_best(folder: Path, run: RunDirectory) -> None:
    """Write `experiment/best.yaml`, an experiment that repeats a run.

    The file holds the whole config of the run, so later changes of other files do not affect it.

    Args:
        folder: Directory of the sweep.
        run: The best run.
    """
    saved = RunConfig.load(run)
    config = OmegaConf.create(saved.text)
    assert isinstance(config, DictConfig)
    config.pop("resume", None)
    if not run.read_result().tested:
        config.pop("report", None)  # the sweep makes no report of a run that it does not test
    if config.get("callbacks"):
        config.callbacks.pop("pruning", None)  # reports to the study of this sweep
    lists = _groups_with_a_list(saved)
    options = {group: option for group, option in saved.origin.choices.items() if group not in ("experiment", "debug")}
    defaults: list[dict[str, Any]] = [
        {f"override /{group}": [] if group in lists else option} for group, option in options.items()
    ]
    text = "\n".join(
        [
            "# @package _global_",
            f"# {opsin_command('train', *repeat_arguments(folder, saved))}",
            f"# Config of {run.path.name}, the best run of the sweep {folder.name}.",
            OmegaConf.to_yaml(OmegaConf.create({"defaults": [*defaults, "_self_"]})).rstrip(),
            OmegaConf.to_yaml(config),
        ]
    )
    file = folder / BEST
    file.parent.mkdir(exist_ok=True)
    write_atomically(file, text)


def repeat_arguments(folder: Path, saved: RunConfig) -> list[str]:
    """Return the arguments of the train command that repeat the best run, with the search path of the sweep.

    Args:
        folder: Directory of the sweep.
        saved: The config of the best run.
    """
    source = saved.origin.source.extended([str(folder)])
    lists = _groups_with_a_list(saved)
    typed = (override for override in saved.origin.overrides if override.startswith("~"))
    deletions = (override for override in typed if key_of(override).split(".")[0] not in lists)
    return [*source.flags, "experiment=best", *deletions]


def _groups_with_a_list(saved: RunConfig) -> list[str]:
    """Return the groups with a list of options, such as `logger=[csv,wandb]`.

    `best.yaml` has no options of them, only their whole section. A deletion in it has taken place already.
    """
    return [group for group, option in saved.origin.choices.items() if option and option.startswith("[")]


def untested_runs(rows: Sequence[TrialRow], objective: str) -> list[TrialRow]:
    """Return the runs of the best recipe that have no metrics of the test images."""
    return [row for row in best_runs(rows, objective) if not row.result.tested]


def draw(folder: Path, study: "Study", objectives: Sequence[str]) -> list[Path]:
    """Draw plots of the search.

    Args:
        folder: Directory of the sweep.
        study: Study with the trials.
        objectives: Names of the objectives.

    Returns:
        The files: history, importance of the keys and parallel coordinates for each objective; for two objectives also
        the Pareto front. Empty with fewer than two complete trials.
    """
    import warnings

    import matplotlib

    matplotlib.use("Agg")
    import optuna
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as plots

    complete = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
    if len(complete) < 2:
        return []
    kinds: dict[str, Callable[..., Any]] = {
        "history": plots.plot_optimization_history,
        "importance": plots.plot_param_importances,
        "parallel_coordinate": plots.plot_parallel_coordinate,
    }
    if len({tuple(trial.params.values()) for trial in complete}) < 2:
        del kinds["importance"]
    drawn = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna warns that this module is experimental
        for index, objective in enumerate(objectives):
            for kind, plot in kinds.items():
                target = plotted_values(study, index, kind)
                axes = plot(study, target=target, target_name=objective)
                name = kind if index == 0 else f"{kind}_{objective.replace('/', '_')}"
                drawn.append(_save(axes, folder / f"{name}.png"))
        if len(objectives) == 2:
            drawn.append(_save(plots.plot_pareto_front(study, target_names=list(objectives)), folder / "pareto.png"))
    pyplot.close("all")
    return drawn


def plotted_values(study: "Study", index: int, kind: str) -> Callable[["FrozenTrial"], float] | None:
    """Return the function that yields the values of one of several objectives for a plot; None for the only one.

    Optuna takes low values of a function as good ones when it computes the importance of the keys.

    Args:
        study: Study with the trials.
        index: Index of the objective.
        kind: Kind of the plot.
    """
    if len(study.directions) == 1:
        return None
    sign = -1 if kind == "importance" and study.directions[index].name == "MAXIMIZE" else 1
    return lambda trial: sign * trial.values[index]


def _save(axes: Any, file: Path) -> Path:
    """Write the figure of some axes as PNG, and return the file."""
    figure = axes.get_figure()
    figure.set_size_inches(9, 5)
    with atomic_open(file) as stream:
        figure.savefig(stream, dpi=110, bbox_inches="tight", format="png")
    return file
