"""Files of configs/sweep, and the checks of a sweep before it starts."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from opsin.config import CONFIGS, ConfigSource, compose, is_of_a_sweep, read_command_line
from opsin.config.compose import compose_raw
from opsin.config.secrets import secret_variables
from opsin.config.target_lookup import Constructors
from opsin.errors import UserError
from opsin.sweeps.checked_sweep import _checked, _import_callbacks, _incomparable, _refuse_settings_of_runs
from opsin.sweeps.jobs import Jobs
from opsin.sweeps.launchers import Slurm
from opsin.sweeps.search_space import Listed, Space, read_space
from opsin.sweeps.settings import Sweep
from opsin.sweeps.study import open_storage
from opsin.sweeps.sweep import sweep
from opsin.sweeps.trials import Trial
from opsin.training.plan import make_plan

SWEEPS = sorted(path.stem for path in CONFIGS.glob("sweep/*.yaml"))
OVERRIDES = {
    "finetuning_depth": ["datamodule.path=photos"],
    "augmentation_dropout": ["datamodule.path=photos"],
    "search": ["optimizer.lr=tag(log,interval(0.0001,0.1))"],
    "grid": ["model=mlp,cnn_gap"],
}


def read(*overrides: str) -> tuple[Sweep, Space, Jobs]:
    of_sweep = [override for override in overrides if is_of_a_sweep(override)]
    settings, _, _ = _checked(compose_raw(of_sweep), of_sweep, ConfigSource())
    space = read_space([override for override in overrides if not is_of_a_sweep(override)], settings.space)
    return settings, space, Jobs(space)


@pytest.mark.slow
@pytest.mark.parametrize("name", SWEEPS)
def test_the_runs_of_a_sweep_file_have_valid_plans(name: str, tmp_path: Path) -> None:
    settings, space, jobs = read(f"sweep={name}", *OVERRIDES.get(name, []))
    assert space.dimensions
    first: dict[str, Any] = {d.key: d.values[0] if isinstance(d, Listed) else d.low for d in space.dimensions}
    runs = [first]
    for dimension in space.dimensions:
        last = dimension.values[-1] if isinstance(dimension, Listed) else dimension.high
        runs.append({**first, dimension.key: last})
    for choices in runs:
        make_plan(compose(space.overrides(choices), tmp_path / "run"))
    if settings.sampler == "grid":
        assert len(list(space.grid())) >= 2
    assert compose(space.overrides(first), tmp_path / "run").origin.choices["model"] in jobs.names(
        space.overrides(first)
    )


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_file_begins_with_its_command(name: str) -> None:
    line = (CONFIGS / "sweep" / f"{name}.yaml").read_text().splitlines()[0]
    assert line.startswith("# opsin train -m ")
    assert f"sweep={name}" in line or name == "grid"


def test_a_storage_with_a_password_is_a_reference_until_it_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    address = "postgresql://me:hunter22@host/x"
    monkeypatch.setenv("DBURL", address)
    settings, _, _ = read("sweep.storage=${oc.env:DBURL}", "seed=1,2")
    assert settings.storage == "${oc.env:DBURL}"
    assert secret_variables({"storage": settings.storage}) == {"DBURL"}
    monkeypatch.setattr("optuna.storages.RDBStorage", str)
    assert open_storage(settings.storage) == address  # type: ignore[comparison-overlap]


def test_the_typical_config_contains_shared_values() -> None:
    _, space, jobs = read("sweep=flatten_or_gap", "monitor.metric=val/acc", "seed=7,8")
    assert jobs.names([*space.fixed, *space.first()]) == ["mnist", "cnn_flatten"]
    assert jobs.typical.monitor.metric == "val/acc"
    assert jobs.typical.seed == 7


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sweep.sampler=tpe", "set sweep.trials=N"),
        ("sweep.sampler=tpee", "should be 'grid', 'random', 'tpe' or 'cmaes'"),
        ("sweep.trials=0", "greater than or equal to 1"),
        ("+sweep.smapler=tpe", r"did you mean sweep.sampler\?"),
        ("sweep.smapler=tpe", r"did you mean sweep.sampler=tpe\?"),
        ("optimizer.lrr=1,2", r"did you mean optimizer.lr=2\?"),
        ("sweep=serch", r"did you mean sweep=search\?"),
        ("launcher.jobs=0", "launcher.jobs"),
        ("+launcher.job=2", r"did you mean launcher.jobs\?"),
        ("sweep.pruner_epochs=0", "greater than or equal to 1"),
    ],
)
def test_an_invalid_setting_is_named(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(override, "model=mlp,cnn_gap")


def test_a_wrong_storage_is_refused_before_the_sweep_has_a_directory(in_tmp: Path) -> None:
    with pytest.raises(UserError, match=r"sweep\.storage=sqlite:////absent/x\.db cannot be opened"):
        sweep(["sweep.storage=sqlite:////absent/x.db", "seed=1,2"])
    assert not (in_tmp / "outputs").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampler": "cmaes", "trials": 3, "objectives": ["val/acc", "seconds"]}, "one objective"),
        ({"pruner": "median", "objectives": ["val/acc", "seconds"]}, "one objective"),
        ({"objectives": []}, r"sweep\.objectives=\[\] names no metric: leave it out"),
    ],
)
def test_incompatible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Sweep(**settings)


@pytest.mark.parametrize("name", ["..", ".", "", "a/../..", "/tmp/sweep"])
def test_a_name_outside_the_folder_of_sweeps_is_refused(name: str, in_tmp: Path) -> None:
    with pytest.raises(UserError, match=r"sweep\.name=.* is not the name of a folder in that of all sweeps"):
        sweep([f"sweep.name='{name}'", "seed=1,2"])
    assert list(in_tmp.iterdir()) == []
    assert Sweep(name="lectures/lr").name == "lectures/lr"


@pytest.mark.parametrize(
    ("objective", "overrides", "keys"),
    [
        ("val/loss", ["loss.class_weights=none,balanced", "seed=1,2"], "loss.class_weights"),
        ("train/loss", ["loss.label_smoothing=interval(0,0.2)"], "loss.label_smoothing"),
        ("val/loss", ["model.teacher=efficientnet_lite0", "distillation.labels=0,1"], "distillation.labels"),
        ("val/loss", ["distillation.labels=0,1", "optimizer.lr=interval(0.1,1)"], ""),
        ("val/acc", ["loss.class_weights=none,balanced"], ""),
        ("parameters", ["loss.class_weights=none,balanced"], ""),
        ("val/acc", ["datamodule=mnist,cifar10", "seed=1,2"], "datamodule._target_"),
        ("val/loss", ["datamodule.val_fraction=interval(0.1,0.2)"], "datamodule.val_fraction"),
        ("seconds", ["datamodule=mnist,cifar10"], ""),
        ("val/acc", ["datamodule.num_folds=3", "datamodule.fold=0,1", "datamodule.train_fraction=0.5,1.0"], ""),
    ],
)
def test_a_sweep_whose_runs_cannot_be_compared_gets_a_warning(objective: str, overrides: list[str], keys: str) -> None:
    space = read_space(overrides, {})
    lists = [dimension for dimension in space.dimensions if isinstance(dimension, Listed)]
    runs = [[f"{one.key}={value}"] for one in lists for value in one.values] or [[]]
    configs = [compose_raw([*space.fixed, *run]) for run in runs]
    notes = _incomparable(objective, space, configs)
    kind = "images" if keys.startswith("datamodule.") else "losses"
    assert len(notes) == bool(keys)
    assert all(f"different {kind} ({keys}): " in note for note in notes)


def with_experiment(folder: Path, text: str, **others: str) -> ConfigSource:
    """Write `experiment/mine.yaml` and others into a folder of config files, and return the source with this folder."""
    (folder / "experiment").mkdir(parents=True)
    for name, content in {"mine": text, **others}.items():
        (folder / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\n{content}\n")
    return ConfigSource.of([str(folder)])


def test_a_sweep_refuses_a_section_without_keys_before_it_starts(in_tmp: Path) -> None:
    with pytest.raises(UserError, match="monitor is 'val/loss' instead of a section"):
        sweep(["experiment=mine", "seed=1,2"], with_experiment(in_tmp, "monitor: val/loss"))
    assert not (in_tmp / "outputs").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "sweep: {name: mine, trials: 1}",
            r"sweep\.name in experiment=mine has no effect.*set it on the command line, or",
        ),
        ("launcher: {jobs: 1}", r"launcher\.jobs in experiment=mine has no effect.*a file of configs/launcher$"),
        ("defaults: [{override /sweep: search}]", "sweep=search in experiment=mine has no effect"),
        ("defaults: [{override /launcher: slurm}]", "launcher=slurm in experiment=mine has no effect"),
    ],
)
def test_settings_of_a_sweep_in_an_experiment_are_refused(in_tmp: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        sweep(["experiment=mine", "seed=1,2"], with_experiment(in_tmp, text))
    assert not (in_tmp / "outputs").exists()


@pytest.mark.parametrize("typed", ["mine,my_a,my_b", "choice(mine,my_a,my_b)", "glob(my_*)"])
def test_every_listed_experiment_with_settings_of_a_sweep_is_refused(typed: str, in_tmp: Path) -> None:
    source = with_experiment(in_tmp, "seed: 1", my_a="sweep: {name: a, trials: 3}", my_b="sweep: {name: b}")
    with pytest.raises(UserError, match=r"sweep\.name in experiment=my_a and experiment=my_b has no effect.*sweep$"):
        sweep([f"experiment={typed}"], source)
    assert not (in_tmp / "outputs").exists()


def test_settings_of_a_sweep_in_experiments_that_change_nothing_are_accepted(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = with_experiment(in_tmp, "seed: 1", one="sweep: {name: a}", two="sweep: {name: a}")
    monkeypatch.setattr("opsin.sweeps.sweep.Trials", no_trials)
    with pytest.raises(UserError, match="no run is started"):
        sweep(["experiment=mine,one,two", "sweep.name=a"], source)


@pytest.mark.parametrize("key", ["model", "monitor", "trainer", "callbacks", "optimizer"])
def test_a_section_that_is_a_reference_to_text_has_the_error_of_a_single_run(key: str, in_tmp: Path) -> None:
    source = with_experiment(in_tmp, f"{key}: ${{seed}}", other="seed: 1")
    with pytest.raises(UserError) as single:
        compose(["experiment=mine"], source=source)
    for varying, begin in (("seed=42,1", ""), ("experiment=other,mine", "experiment=mine: ")):
        with pytest.raises(UserError) as error:
            sweep([varying, *([] if begin else ["experiment=mine"])], source)
        assert str(error.value) == f"{begin}{single.value}"
    assert not (in_tmp / "outputs").exists()


def test_settings_of_a_sweep_in_the_experiment_of_a_project_are_refused(in_tmp: Path) -> None:
    with_experiment(in_tmp / "configs", "sweep: {sampler: random, trials: 2}")
    (in_tmp / "pyproject.toml").write_text('[tool.opsin]\nexperiment = "mine"\n')
    line = read_command_line(["seed=1,2", "--multirun"])
    with pytest.raises(UserError, match=r"sweep\.(sampler|trials) in experiment=mine has no effect"):
        sweep(line.overrides, line.source)
    assert not (in_tmp / "outputs").exists()


def test_a_typed_setting_of_a_sweep_replaces_that_of_an_experiment(tmp_path: Path) -> None:
    source = with_experiment(tmp_path, "defaults: [{override /sweep: search}]\nsweep: {trials: 3}\nlauncher: {jobs: 2}")
    typed = ["sweep=search", "sweep.trials=5", "launcher.jobs=3"]
    jobs = Jobs(read_space(["experiment=mine", "seed=1,2"], {}, source), source, typed)
    _refuse_settings_of_runs([jobs.typical], compose_raw(typed, source))
    assert (jobs.typical.sweep.trials, jobs.typical.launcher.jobs) == (5, 3)


def no_trials(*_: Any) -> None:
    raise UserError("no run is started")


def test_a_shuffled_list_keeps_its_order_when_the_sweep_is_resumed(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Space] = []

    def trials(folder: Path, name: str, space: Space, *_: Any) -> None:
        begun.append(space)
        raise UserError("no run is started")

    monkeypatch.setattr("opsin.sweeps.sweep.Trials", trials)
    for _ in range(2):
        with pytest.raises(UserError, match="no run is started"):
            sweep(["seed=shuffle(range(9))", "model=mlp"])
    assert begun[0] == begun[1]
    assert sorted(begun[0].lists["seed"]) == [str(seed) for seed in range(9)]


@pytest.mark.parametrize("key", ["output_dir", "hydra.sweep.dir", "experiment"])
def test_a_sweep_is_in_the_home_folder_of_the_user(in_tmp: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    begun: list[Path] = []

    def trials(folder: Path, *_: Any) -> None:
        begun.append(folder)
        raise UserError("no run is started")

    monkeypatch.setattr("opsin.sweeps.sweep.Trials", trials)
    monkeypatch.setenv("HOME", str(in_tmp / "home"))
    source = with_experiment(in_tmp / "configs", "output_dir: ~/mine")
    with pytest.raises(UserError, match="no run is started"):
        sweep(["seed=1,2", "experiment=mine" if key == "experiment" else f'{key}="~/mine"'], source)
    assert begun[0].is_relative_to(in_tmp / "home" / "mine")
    assert not (in_tmp / "~").exists()


def test_a_folder_of_sweeps_that_refers_to_nothing_is_refused(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ABSENT", raising=False)
    for reference, message in (
        ("x.y", "cannot be resolved: .*x.y"),
        ("oc.env:ABSENT", r"ABSENT \(for hydra.sweep.dir"),
    ):
        with pytest.raises(UserError, match=message):
            sweep(["seed=1,2", f'hydra.sweep.dir="${{{reference}}}/sweeps"'])
    assert not [*in_tmp.iterdir()]


def test_callbacks_are_imported_and_references_are_left_to_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    imported: list[str] = []
    monkeypatch.setattr(Constructors, "resolve", lambda _, name: imported.append(name))
    sections = {"one": "${callbacks.two}", "two": {"_target_": "mine.Own"}, "three": None}
    _import_callbacks(OmegaConf.create({"callbacks": sections}))
    assert imported == ["mine.Own"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sweep.objectives=[val/acurracy]"], r"sweep.objectives=val/acurracy: .* did you mean val/acc\?"),
        (["sweep.objectives=[val/acc,second]"], r"sweep.objectives=second: .* did you mean seconds\?"),
        (["sweep.objectives=[test/acc]"], r"sweep.objectives=test/acc: .* read once, after training; use val/acc"),
        (["monitor.metric=val_loss"], r"monitor.metric=val_loss: .* did you mean val/loss\?"),
        (["monitor.metric=train/loss", "sweep.objectives=[val/ece]", "trainer.limit_val_batches=0"], "never measured"),
        (["sweep.pruner=median", "sweep.objectives=[seconds]"], "needs an objective that is measured every epoch"),
    ],
)
def test_an_invalid_objective_is_refused_before_the_sweep_starts(
    overrides: list[str], message: str, in_tmp: Path
) -> None:
    with pytest.raises(UserError, match=message):
        sweep([*overrides, "model=mlp,cnn_gap"])
    assert not (in_tmp / "outputs").exists()


@pytest.mark.slow
def test_a_pruner_compares_the_objective_and_not_the_monitored_metric(tmp_path: Path) -> None:
    class Study:
        storage, name = "journal", "study"

    settings, _, jobs = read("model=mlp,cnn_gap", "sweep.pruner=median", "sweep.objectives=[val/acc]")
    trial = Trial(0, {}, ("model=mlp",), "run")
    job = jobs.make_job(trial, tmp_path, settings, "val/acc", Study(), threads=1)  # type: ignore[arg-type]
    assert "+callbacks.pruning.monitor=val/acc" in job.overrides


@pytest.mark.parametrize("text", ["setup: [touch victim]", "address: ray://evil.example:10001"])
def test_a_config_file_outside_the_project_sets_no_command_of_a_launcher(text: str, in_tmp: Path) -> None:
    option, key = ("slurm", "setup") if text.startswith("setup") else ("ray", "address")
    (in_tmp / "theirs" / "launcher").mkdir(parents=True)
    target = {"slurm": "Slurm", "ray": "Ray"}[option]
    (in_tmp / "theirs" / "launcher" / "x.yaml").write_text(f"_target_: opsin.sweeps.launchers.{target}\n{text}\n")
    source = ConfigSource.of([str(in_tmp / "theirs")])
    with pytest.raises(UserError, match=rf"launcher\.{key} .*cannot come from the config files of {in_tmp}/theirs"):
        sweep(["launcher=x", "seed=1,2"], source)
    assert not (in_tmp / "victim").exists()


@pytest.mark.parametrize(
    "options", [{"partition": "a\ntouch victim"}, {"options": {"comment": "a\nid"}}, {"options": {"a\nid": "b"}}]
)
def test_an_option_of_sbatch_adds_no_line_to_the_script(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opsin.sweeps.launchers.slurm._check_installed", lambda: None)
    with pytest.raises(UserError, match="must be one line of plain text"):
        Slurm(**options)


def test_a_single_run_refuses_overrides_of_a_sweep(tmp_path: Path) -> None:
    tree = compose(["model=mlp"], tmp_path / "run").tree
    assert not {"sweep", "launcher"} & set(tree)
    for override in ("sweep=search", "launcher.jobs=2", "+sweep.trials=3"):
        with pytest.raises(UserError, match="--multirun"):
            compose([override], tmp_path / "run")
