"""Directory of a sweep, outcomes of runs, and the selection of the best recipe."""

import shutil
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from opsin.config import ConfigSource, compose
from opsin.errors import UserError
from opsin.runs.directory import RunDirectory
from opsin.runs.result import ParameterCounts, RunResult
from opsin.sweeps.best_run import TrialRow, best_runs, repeat_arguments, untested_runs, winner, write_best
from opsin.sweeps.launchers.base import Exit, Job
from opsin.sweeps.outcomes import Outcome, directions, failure, outcome_of
from opsin.sweeps.settings import Sweep
from opsin.sweeps.sweep import _problems
from opsin.sweeps.sweep_directory import recorded_values, study_name, sweep_directory


def directory(
    sweeps: Path, settings: Sweep, overrides: Sequence[str], metric: str = "val/loss", **values: Sequence[str]
) -> Path:
    return sweep_directory(sweeps, "grid", settings, overrides, settings.objectives or [metric], values)


def test_the_directory_does_not_depend_on_the_order_of_overrides(tmp_path: Path) -> None:
    one = directory(tmp_path, Sweep(), ["model=a,b", "seed=1"])
    assert one.name.startswith("grid_")
    assert one == directory(tmp_path, Sweep(retry_failed=True), ["seed=1", "model=a,b"])
    assert one == directory(tmp_path, Sweep(trials=3), ["seed=1", "model=a,b"])
    assert one != directory(tmp_path, Sweep(), ["seed=1", "model=a"])
    assert one != directory(tmp_path, Sweep(pruner="median"), ["seed=1", "model=a,b"])


def test_a_second_sweep_of_the_same_name_is_refused(tmp_path: Path) -> None:
    settings = Sweep(name="night", sampler="tpe", trials=3)
    assert directory(tmp_path, settings, ["model=a"]) == tmp_path / "night"
    with pytest.raises(UserError, match=r"its overrides were model=a, and now they are model=b"):
        directory(tmp_path, settings, ["model=b"])
    with pytest.raises(UserError, match=r"its sweep.sampler was tpe, and now it is random"):
        directory(tmp_path, Sweep(name="night", sampler="random", trials=3), ["model=a"])


def test_a_deleted_sweep_of_the_same_name_leaves_no_study_behind(tmp_path: Path) -> None:
    first = directory(tmp_path / "a", Sweep(name="night"), ["model=a"])
    before = study_name(first)
    assert before.startswith("night_")
    assert study_name(directory(tmp_path / "b", Sweep(name="night"), ["model=a"])) != before
    shutil.rmtree(first)
    assert study_name(directory(tmp_path / "a", Sweep(name="night"), ["model=a"])) != before


def test_processes_that_begin_a_sweep_at_once_use_one_study(tmp_path: Path) -> None:
    def begin(_: int) -> str:
        return study_name(directory(tmp_path, Sweep(name="night"), ["model=a"]))

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(begin, range(8)))) == 1


def test_a_sweep_of_an_earlier_version_keeps_its_study(tmp_path: Path) -> None:
    folder = directory(tmp_path, Sweep(), ["model=a"])
    recorded = yaml.safe_load((folder / "sweep.yaml").read_text())
    del recorded["study"], recorded["values"]
    (folder / "sweep.yaml").write_text(yaml.safe_dump({**recorded, "objectives": None}))
    with pytest.raises(UserError, match=r"it optimized monitor\.metric"):
        directory(tmp_path, Sweep(name=folder.name, objectives=["val/acc"]), ["model=a"])
    assert directory(tmp_path, Sweep(), ["model=a"]) == folder
    assert study_name(folder) == folder.name
    assert yaml.safe_load((folder / "sweep.yaml").read_text()) == recorded
    with pytest.raises(UserError, match=r"it optimized val/loss, .* is val/acc"):
        directory(tmp_path, Sweep(), ["model=a"], metric="val/acc")


@pytest.mark.parametrize("objectives", [None, ["val/acc"]])
def test_another_sweep_changes_no_record_of_an_earlier_version(tmp_path: Path, objectives: list[str] | None) -> None:
    folder = directory(tmp_path, Sweep(name="night"), ["model=a"])
    recorded = yaml.safe_load((folder / "sweep.yaml").read_text())
    text = yaml.safe_dump({key: value for key, value in recorded.items() if key != "objectives"})
    (folder / "sweep.yaml").write_text(text)
    with pytest.raises(UserError, match="holds another sweep: its overrides were model=a"):
        directory(tmp_path, Sweep(name="night", objectives=objectives), ["model=b"])
    assert (folder / "sweep.yaml").read_text() == text


def test_the_first_process_records_the_values_of_lists(tmp_path: Path) -> None:
    typed = ["seed=shuffle(range(3))", "model=glob(m*)"]
    folder = directory(tmp_path, Sweep(), typed, seed=("2", "0", "1"), model=["mlp"])
    assert directory(tmp_path, Sweep(), typed, seed=("0", "1", "2"), model=["mlp"]) == folder
    assert recorded_values(folder) == {"seed": ["2", "0", "1"], "model": ["mlp"]}


@pytest.mark.parametrize("name", ["night", None])
def test_a_list_that_expands_to_other_values_is_refused(tmp_path: Path, name: str | None) -> None:
    settings, typed = Sweep(name=name), ["experiment=glob(my_*)"]
    folder = directory(tmp_path, settings, typed, experiment=["my_a", "my_b"])
    text = (folder / "sweep.yaml").read_text()
    way_out = f"Set {'another' if name else 'a'} sweep.name to begin a new sweep, or restore the values"
    for values, changes in (
        (["my_a", "my_b", "my_c"], "new: experiment=my_c"),
        (["my_b"], "missing: experiment=my_a"),
        (["my_b", "my_c"], "new: experiment=my_c; missing: experiment=my_a"),
        ([], "missing: experiment=my_a experiment=my_b"),
    ):
        with pytest.raises(UserError, match=rf"^{folder} holds a sweep over other values \({changes}\)\. {way_out}"):
            directory(tmp_path, settings, typed, experiment=values)
    assert (folder / "sweep.yaml").read_text() == text


def test_a_sweep_of_an_earlier_version_without_values_is_resumed(tmp_path: Path) -> None:
    folder = directory(tmp_path, Sweep(), ["seed=shuffle(range(3))"], seed=["2", "0", "1"])
    recorded = yaml.safe_load((folder / "sweep.yaml").read_text())
    del recorded["values"]
    (folder / "sweep.yaml").write_text(yaml.safe_dump(recorded))
    assert directory(tmp_path, Sweep(), ["seed=shuffle(range(3))"], seed=["0", "1", "2"]) == folder
    assert recorded_values(folder) is None


@pytest.mark.parametrize("content", ["values: 3\noverrides: [model=a]\n", "words: [model=a]\n", "overrides: [\n", ""])
def test_a_damaged_or_older_sweep_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "night").mkdir()
    (tmp_path / "night" / "sweep.yaml").write_text(content)
    with pytest.raises(UserError, match=r"sweep.yaml is damaged, or an earlier version .* another sweep.name"):
        directory(tmp_path, Sweep(name="night"), ["model=a"])


@pytest.mark.parametrize("name", ["night", None])
def test_a_sweep_that_is_resumed_with_another_metric_of_a_file_is_refused(tmp_path: Path, name: str | None) -> None:
    folder = directory(tmp_path, Sweep(name=name), ["model=a"])
    way_out = "Choose another sweep.name, or leave it" if name else "Set sweep.name to begin a new sweep, or restore m"
    message = rf"{folder} holds another sweep: it optimized val/loss, .* monitor.metric is val/acc. {way_out}"
    with pytest.raises(UserError, match=message):
        directory(tmp_path, Sweep(name=name), ["model=a"], metric="val/acc")
    with pytest.raises(UserError, match=r"it optimized val/loss, and now sweep.objectives .* is val/acc, seconds"):
        directory(tmp_path, Sweep(name=folder.name, objectives=["val/acc", "seconds"]), ["model=a"])


def write_run(folder: Path, **result: Any) -> RunDirectory:
    run = RunDirectory(folder)
    folder.mkdir(exist_ok=True)
    run.write_result(RunResult(**result))
    return run


def test_the_outcome_of_a_trial_follows_from_its_result(tmp_path: Path) -> None:
    numbers = {"metrics": {"val/acc": 0.9}, "parameters": ParameterCounts(total=7), "seconds": {"fit": 2.5}}
    objectives = ["val/acc", "parameters", "seconds"]
    assert directions([*objectives, "val/loss"]) == ["maximize", "minimize", "minimize", "minimize"]
    run = write_run(tmp_path / "run", status="finished", **numbers)
    assert outcome_of(run, objectives) == Outcome("complete", (0.9, 7.0, 2.5))
    assert outcome_of(write_run(tmp_path / "run", status="finished", pruned=True, **numbers), objectives) == Outcome(
        "pruned"
    )
    assert outcome_of(write_run(tmp_path / "run", status="interrupted"), objectives) is None
    assert outcome_of(RunDirectory(tmp_path / "none"), objectives) is None
    (tmp_path / "run" / "result.json").write_text("{")
    damaged = outcome_of(RunDirectory(tmp_path / "run"), objectives)
    assert damaged is not None
    assert (damaged.state, "result.json" in damaged.reason) == ("failed", True)
    failed = outcome_of(write_run(tmp_path / "run", status="failed", error="It:\n  broke"), objectives)
    assert failed == Outcome("failed", reason="It: broke")
    run = write_run(tmp_path / "run", status="finished", **numbers)
    assert outcome_of(run, ["val/ece"]) == Outcome("failed", reason="the run has no finite value of val/ece")


@pytest.mark.parametrize(
    ("end", "printed", "message"),
    [
        (Exit(-11), "", "SIGSEGV"),
        (Exit(-6), "", "SIGABRT"),
        (Exit(1), "", "exit code 1 and printed nothing"),
        (Exit(1), "The config cannot be used:\n  - a\n\nSet HYDRA_FULL_ERROR=1\n", "The config cannot be used: - a"),
        (Exit(1), "Traceback (most recent call last):\n  File x\nKeyError: 'a'\n", "KeyError: 'a'"),
        (Exit(1, reason="the node died"), "epoch 1/5", "the node died"),
    ],
)
def test_the_reason_of_a_failure_is_returned_and_saved(tmp_path: Path, end: Exit, printed: str, message: str) -> None:
    run = write_run(tmp_path / "run", status="interrupted")
    job = Job(0, ("model=a",), run)
    job.console.write_text("Error of an earlier start\n")
    job.begin_console()
    with job.console.open("a") as file:
        file.write(printed)
    reason = failure(job, end).reason
    assert message in reason
    assert "earlier" not in reason
    assert run.error.read_text().strip().endswith(reason)
    assert run.read_result() == RunResult(status="failed", error=reason)


def row(number: int, recipe: str, *values: float) -> TrialRow:
    return TrialRow(
        number, f"{recipe} seed={number}", "", recipe, "complete", values, "", RunDirectory(Path("x")), RunResult()
    )


def test_the_best_recipe_wins_by_its_mean_over_seeds() -> None:
    a, b = [row(0, "a", 0.99), row(1, "a", 0.1)], [row(2, "b", 0.8), row(3, "b", 0.9)]
    assert best_runs([*a, *b], "val/acc") == b
    assert best_runs([*a, *b], "val/loss") == a
    assert (winner([*a, *b], "val/acc"), winner([*a, *b], "val/loss")) == (b[1], a[1])
    assert winner([], "val/acc") is None
    once = row(4, "c", 1.0)
    assert best_runs([*a, *b, once], "val/acc") == b  # a recipe that was run less often does not take part
    assert best_runs([once, row(5, "d", 0.5)], "val/acc") == [once]
    assert (
        best_runs([TrialRow(0, "", "", "", "failed", (), "x", RunDirectory(Path("x")), RunResult())], "val/acc") == []
    )


def drawn(number: int, recipe: str, seed: int, value: float) -> TrialRow:
    """Return the row of a trial whose overrides a sampler drew."""
    return replace(row(number, recipe, value), overrides=f"{recipe} seed={seed}")


def test_trials_with_equal_overrides_are_one_repetition() -> None:
    often = [drawn(number, "a", 0, 0.5) for number in range(5)]
    once = drawn(5, "b", 0, 0.9)
    assert best_runs([*often, once], "val/acc") == [once]
    assert best_runs([*often, once], "val/loss") == [often[0]]
    repeated = [drawn(6, "b", 1, 0.7), drawn(7, "b", 1, 0.7)]  # the mean counts seed 1 once
    assert best_runs([*often, drawn(8, "a", 1, 1.08), once, *repeated], "val/acc") == [once, repeated[0]]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1])
def test_a_run_that_was_killed_from_outside_stays_interrupted(tmp_path: Path, number: signal.Signals) -> None:
    run = write_run(tmp_path / "run", status="interrupted")
    outcome = failure(Job(0, ("model=a",), run), Exit(-number))
    assert (outcome.state, outcome.killed) == ("failed", True)
    assert number.name in outcome.reason
    assert "the same command resumes it" in outcome.reason
    assert run.read_result().status == "interrupted"
    engine = failure(Job(0, ("model=a",), run), Exit(-number, reason="SLURM job 3: cancelled in SLURM (scancel)"))
    assert not engine.killed


def test_the_best_recipe_without_a_test_is_a_problem(tmp_path: Path) -> None:
    tested, run = RunResult(metrics={"test/acc": 0.5}), RunDirectory(tmp_path)
    rows = [replace(row(0, "a", 0.9), result=tested), replace(row(1, "a", 0.8), run=run), row(2, "b", 0.1)]
    assert _problems(rows, "val/acc", untested=[]) == []
    run.error.write_text("Traceback ...\nOSError: the images are gone\n\n")
    [problem] = _problems(rows, "val/acc", untested_runs(rows, "val/acc"))
    assert problem.startswith(f"not tested: {tmp_path.name}: OSError: the images are gone; the same command")
    assert _problems([replace(rows[0], values=(), state="pruned")], "val/acc", untested=[]) == [
        "no trial is complete, so there is no best run"
    ]


def test_the_experiment_of_the_best_run_is_its_whole_config(tmp_path: Path) -> None:
    places = (f"data_dir={tmp_path / 'images'}", f"output_dir={tmp_path / 'runs'}")
    best = compose(
        ["model=mlp", "optimizer.lr=0.0123", "test=true", "report=false", *places], tmp_path / "grid" / "000"
    )
    best.run.path.mkdir(parents=True)
    best.save()
    best.run.write_result(RunResult(metrics={"test/acc": 0.9}))
    write_best(tmp_path / "grid", best.run)
    arguments = repeat_arguments(tmp_path / "grid", best)
    assert arguments == ["--config-dir", str(tmp_path / "grid"), "experiment=best"]
    again = compose(["experiment=best"], tmp_path / "again", ConfigSource.of([str(tmp_path / "grid")]))
    assert again.tree == best.tree
    other = compose(["experiment=best", "data_dir=/elsewhere"], None, ConfigSource.of([str(tmp_path / "grid")]))
    assert other.tree["data_dir"] == "/elsewhere"


def test_the_experiment_of_a_best_run_with_lists_of_options_is_its_whole_config(tmp_path: Path) -> None:
    lists = ["callbacks=[default,ema]", "~callbacks.early_stopping", "logger=[csv,wandb]", "~scheduler"]
    best = compose(["model=mlp", *lists, "test=false", "report=false"], tmp_path / "grid" / "000")
    best.run.path.mkdir(parents=True)
    best.save()
    write_best(tmp_path / "grid", best.run)
    _, folder, *arguments = repeat_arguments(tmp_path / "grid", best)
    assert arguments == ["experiment=best", "~scheduler"]
    again = compose(arguments, tmp_path / "again", ConfigSource.of([folder]))
    assert again.tree == {**best.tree, "report": True}  # this sweep tests no run, so it made no report
    no_options = {"callbacks": "[]", "logger": "[]"}  # `best.yaml` has their sections
    assert again.origin.choices == {**best.origin.choices, "experiment": "best", **no_options}
