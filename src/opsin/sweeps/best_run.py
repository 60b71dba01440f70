"""What a sweep leaves: the winner, a file that runs it again, and pictures of the search."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from opsin.config import RunConfig
from opsin.runs.atomic import atomic_open, write_atomically
from opsin.runs.directory import RunDirectory
from opsin.runs.metric_registry import sort_key
from opsin.runs.quoting import printed_command
from opsin.sweeps.table import TrialRow

if TYPE_CHECKING:
    from optuna.study import Study

ELSEWHERE = ("data_dir", "output_dir", "resume", "report", "test")
"""Keys that say where things lie and what is done after training, and nothing about the recipe."""


def winners(rows: Sequence[TrialRow], objective: str) -> list[TrialRow]:
    """The runs of the best recipe: one, or several that differ by seed or fold and are judged by their mean.

    A recipe takes part with as many complete repetitions as any other has.

    Args:
        rows: of all trials.
        objective: the first one, which decides.
    """
    recipes: dict[str, list[TrialRow]] = {}
    for row in rows:
        if row.values:
            recipes.setdefault(row.recipe, []).append(row)
    if not recipes:
        return []
    most = max(map(len, recipes.values()))
    whole = [runs for runs in recipes.values() if len(runs) == most]
    return min(whole, key=lambda runs: sort_key(objective, statistics.fmean(row.values[0] for row in runs)))


def write_best(folder: Path, run: RunDirectory) -> list[str]:
    """Write `experiment/best.yaml`, an experiment of the recipe of a run; the words that run it.

    It holds the whole config of the run, so that later changes of other files do not touch it.
    """
    saved = RunConfig.load(run)
    config = OmegaConf.create(saved.text)
    assert isinstance(config, DictConfig)
    for key in ELSEWHERE:
        config.pop(key, None)
    if config.get("callbacks"):
        config.callbacks.pop("pruning", None)  # reports to the study of this sweep
    source = saved.origin.source.extended([str(folder)])
    parts = {part: option for part, option in saved.origin.choices.items() if part not in ("experiment", "debug")}
    defaults = [{f"override /{part}": option} for part, option in parts.items()]
    words = [*source.flags, "experiment=best", *(w for w in saved.origin.overrides if w.startswith("~"))]
    text = "\n".join(
        [
            "# @package _global_",
            f"# {printed_command(['python', 'train.py', *words])}",
            f"# The best of the sweep {folder.name}, as {run.path.name} ran it.",
            OmegaConf.to_yaml(OmegaConf.create({"defaults": [*defaults, "_self_"]})).rstrip(),
            OmegaConf.to_yaml(config),
        ]
    )
    place = folder / "experiment" / "best.yaml"
    place.parent.mkdir(exist_ok=True)
    write_atomically(place, text)
    return words


def draw(folder: Path, study: "Study", objectives: Sequence[str]) -> list[Path]:
    """Draw how the search went, what mattered, and which choices go together with what came out.

    Returns:
        The pictures: history, importance and parallel_coordinate, for each objective; of two objectives also the
        trials that no other beats in both.
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
        warnings.simplefilter("ignore")  # the module calls itself experimental
        for place, objective in enumerate(objectives):
            for kind, plot in kinds.items():
                target = (lambda trial, place=place: trial.values[place]) if len(objectives) > 1 else None
                axes = plot(study, target=target, target_name=objective)
                name = kind if place == 0 else f"{kind}_{objective.replace('/', '_')}"
                drawn.append(_save(axes, folder / f"{name}.png"))
        if len(objectives) == 2:
            drawn.append(_save(plots.plot_pareto_front(study, target_names=list(objectives)), folder / "pareto.png"))
    pyplot.close("all")
    return drawn


def _save(axes: Any, file: Path) -> Path:
    figure = axes.get_figure()
    figure.set_size_inches(9, 5)
    with atomic_open(file) as stream:
        figure.savefig(stream, dpi=110, bbox_inches="tight", format="png")
    return file
