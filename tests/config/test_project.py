"""The project of the user: its folder, the packages it permits, and that a run directory is never a project."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from opsin.config import ConfigSource, compose, read_command_line
from opsin.config.project import Project, find_project
from opsin.config.shortcut import expand_folder, stands_for
from opsin.config.target_lookup import Constructors, functions_or_subclasses_of, permitted_packages
from opsin.errors import UserError
from opsin.runs.quoting import opsin_command

OWN = Constructors({}, own=functions_or_subclasses_of(dict))


def write(folder: Path, table: str = 'targets = ["mine_here"]') -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(f"[tool.opsin]\n{table}\n")


@pytest.fixture
def project(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a package, config files and an experiment of its own."""
    root = in_tmp / "my project (ü)"
    write(root, 'targets = ["mine_here"]\nexperiment = "first"')
    (root / "src" / "mine_here").mkdir(parents=True)
    (root / "src" / "mine_here" / "__init__.py").write_text("def network(): ...\n")
    for file, text in {
        "experiment/first.yaml": "# @package _global_\nseed: 7\n",
        "experiment/quickstart.yaml": "# @package _global_\nseed: 8\n",
        "optimizer/sgd.yaml": "_target_: torch.optim.SGD\nlr: 0.123\nmomentum: 0.9\nweight_decay: 0.0\n",
    }.items():
        (root / "configs" / file).parent.mkdir(parents=True, exist_ok=True)
        (root / "configs" / file).write_text(text)
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield root
    sys.modules.pop("mine_here", None)


def test_a_config_dir_precedes_project_configs_and_these_precede_those_of_opsin(project: Path, in_tmp: Path) -> None:
    composed = compose(["optimizer=sgd", "experiment=quickstart"])
    assert (composed.tree["optimizer"]["lr"], composed.tree["seed"]) == (0.123, 8)
    assert composed.origin.of("optimizer.lr") == "in configs/optimizer/sgd.yaml"
    assert compose(["model=mlp"]).tree["model"]["_target_"] == "opsin.models.mlp"  # a config of Opsin
    nearer = in_tmp / "nearer" / "optimizer"
    nearer.mkdir(parents=True)
    (nearer / "sgd.yaml").write_text((project / "configs/optimizer/sgd.yaml").read_text().replace("0.123", "0.5"))
    assert compose(["optimizer=sgd"], source=ConfigSource.of([str(nearer.parent)])).tree["optimizer"]["lr"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "seed"),
    [([], 7), (["experiment=quickstart"], 8), (["~experiment"], 42), (["resume=auto"], 7), (["seed=3"], 3)],
)
def test_the_project_experiment_is_used_unless_the_command_names_one(
    project: Path, arguments: list[str], seed: int
) -> None:
    line = read_command_line(arguments)
    assert compose(line.overrides, source=line.source).tree["seed"] == seed
    assert read_command_line(["resume=outputs/run"]).overrides == ("resume=outputs/run",)
    assert read_command_line(["--version"]).overrides == ()


def test_the_use_of_the_project_experiment_is_printed_and_a_folder_disables_it(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "photos" / "cats").mkdir(parents=True)

    def expanded(*arguments: str) -> tuple[tuple[str, ...], str]:
        line = expand_folder(read_command_line(arguments))
        return line.overrides, capsys.readouterr().err

    said = "experiment first (pyproject.toml); '~experiment' leaves it out\n"
    assert expanded("seed=3") == (("seed=3", "experiment=first"), said)
    for arguments in (["~experiment"], ["experiment=quickstart"], ["resume=outputs/run"]):
        assert expanded(*arguments) == (tuple(arguments), "")
    overrides, printed = expanded("photos", "seed=3")
    assert overrides == (*stands_for("photos"), "seed=3", "~experiment")
    assert printed == f"photos stands for: {opsin_command('train', *overrides)}\n"
    assert compose(overrides).tree["trainer"]["max_epochs"] == 20
    overrides, _ = expanded("photos", "experiment=first")
    assert overrides[-1] == "experiment=first"
    assert compose(overrides).tree["seed"] == 7


def test_project_packages_are_importable_from_any_folder_of_the_project(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(project / "deep" / "er")
    assert permitted_packages() == ("mine_here",)
    assert OWN.resolve("mine_here.network").__name__ == "network"
    assert sys.path[-2:] == [str(project / "src"), str(project)]
    OWN.resolve("mine_here.network")
    assert sys.path.count(str(project)) == 1


def test_a_project_package_imported_from_another_folder_is_refused(
    project: Path, in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = in_tmp / "site" / "mine_here"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("def network(): ...\n")
    monkeypatch.syspath_prepend(str(installed.parent))
    with pytest.raises(UserError, match=r"mine_here is imported from .*site.*, not from .*src"):
        OWN.resolve("mine_here.network")


@pytest.mark.slow
def test_the_project_is_recorded_and_named_outside_it(
    project: Path, in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from opsin.config import from_saved
    from opsin.training.plan import make_plan

    composed = compose(["model._target_=mine_here.network"], Path("outputs/run"))
    composed.save()
    make_plan(from_saved(composed.run))
    monkeypatch.chdir(in_tmp)
    with pytest.raises(UserError, match=r"mine_here\.network is code of the project '.*my project"):
        make_plan(from_saved(composed.run))
    monkeypatch.chdir(composed.run.path)  # inside the project
    make_plan(from_saved(composed.run))


def test_the_project_is_the_nearest_folder_with_the_table(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(in_tmp, 'targets = ["outer"]')
    write(in_tmp / "inner", "")
    (in_tmp / "plain").mkdir()
    (in_tmp / "plain" / "pyproject.toml").write_text("[project]\n")
    monkeypatch.chdir(in_tmp / "inner")
    assert find_project() == Project(in_tmp / "inner")
    monkeypatch.chdir(in_tmp / "plain")
    assert permitted_packages() == ("outer",)


@pytest.mark.parametrize(
    "text",
    [
        *("", "model: {_target_: mine_here.network}\n", "? !!str 'logger'\n: null\n", '"\\x6coss": ${other}\n'),
        *("other: &other {model: {}}\n<<: *other\n", "- a list\n", "seed: [\n", "seed: 1\n"),
    ],
)
@pytest.mark.parametrize("place", [".", "checkpoints", "checkpoints/deep"])
def test_a_run_directory_is_no_project(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch, place: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = in_tmp / "run"
    write(run)
    write(run / place)
    (run / "configs").mkdir()
    (run / "config.yaml").write_text(text)
    if text == "seed: 1\n":
        (run / "overrides.yaml").touch()
    monkeypatch.chdir(run / place)
    assert find_project() is None
    assert capsys.readouterr().err.startswith(
        f"{run / place / 'pyproject.toml'} is ignored, because {run / 'config.yaml'} marks a run or a sweep"
    )
    assert permitted_packages() == ()
    assert ConfigSource().folders == ConfigSource(project=None).folders
    assert capsys.readouterr().err == ""  # once is enough


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("config.yaml", "site_name: docs\n"),
        ("config.yaml", "1: one\nenvironment: prod\n"),
        ("sweep.yaml", "program: train.py\nmethod: bayes\nparameters: {lr: {min: 0.1}}\n"),
    ],
)
@pytest.mark.parametrize("above", [".", ".."])
def test_a_project_may_have_other_files_with_the_names_of_a_run(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch, file: str, text: str, above: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(in_tmp / "project")
    (in_tmp / "project" / above / file).write_text(text)
    monkeypatch.chdir(in_tmp / "project")
    assert find_project() == Project(in_tmp / "project", ("mine_here",))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("text", ["[project]\n", "[tool.opsin\n", "tool = 3\n", "x = " + "[" * 9999])
def test_a_project_file_without_the_table_is_ignored_in_silence(
    text: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (in_tmp / "config.yaml").touch()
    (in_tmp / "pyproject.toml").write_text(text)
    assert find_project() is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("text", ["", "overrides: [seed=1]\nsampler: grid\n", "overrides: {\n"])
@pytest.mark.parametrize("place", [".", "first_run", "first_run/checkpoints"])
def test_a_sweep_directory_is_no_project(in_tmp: Path, monkeypatch: pytest.MonkeyPatch, place: str, text: str) -> None:
    write(in_tmp / "sweep")
    (in_tmp / "sweep" / "sweep.yaml").write_text(text)
    (in_tmp / "sweep" / place).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(in_tmp / "sweep" / place)
    assert find_project() is None


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="this system has no owners")
def test_a_project_of_another_user_is_found_in_its_own_folder_only(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everybody can write a project file into a folder such as /tmp, above the folders of other users."""
    write(in_tmp)
    (in_tmp / "mine").mkdir()
    monkeypatch.setattr(os, "getuid", lambda: (in_tmp / "pyproject.toml").stat().st_uid + 1)
    monkeypatch.setattr("opsin.config.project.ROOT_USER", -1)
    file = in_tmp / "pyproject.toml"
    said = f"{file} is ignored, because it belongs to another user. To use it, start in its folder\n"
    for _ in range(2):
        monkeypatch.chdir(in_tmp / "mine")
        assert find_project() is None
        assert ConfigSource().folders == ConfigSource(project=None).folders
        assert capsys.readouterr().err == said
        said = ""  # once is enough
    monkeypatch.chdir(in_tmp)
    assert find_project() is not None
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="this system has no owners")
@pytest.mark.parametrize(
    "text", ["[project]\n", "tool = 3\n", "x = " + "[" * 9999, "# not [tool.opsin]\n", "\n" * 10**6]
)
def test_a_file_of_another_user_without_the_table_is_ignored_in_silence(
    text: str, in_tmp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may hold anything, and the commands of all other users must work."""
    write(in_tmp / "mine")
    (in_tmp / "mine" / "deep").mkdir()
    (in_tmp / "mine" / "deep" / "pyproject.toml").write_text(text)
    (in_tmp / "mine" / "deep" / "here").mkdir()
    monkeypatch.setattr("opsin.config.project._is_of_others", lambda folder, here: folder.name == "deep")
    monkeypatch.chdir(in_tmp / "mine" / "deep" / "here")
    assert find_project() == Project(in_tmp / "mine", ("mine_here",))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[tool.opsin\n", "cannot read"),
        ('[tool.opsin]\ntargets = "mine"\n', "must be a list of package names"),
        ("[tool.opsin]\ntargets = [1]\n", "must be a list of package names"),
        ("[tool.opsin]\nexperiment = 1\n", "must be the name of an experiment"),
        ('[tool.opsin]\ntarget = ["mine"]\n', "target under .* did you mean targets"),
        ("[tool]\nopsin = 3\n", "must be a table"),
    ],
)
def test_a_broken_project_file_is_named(in_tmp: Path, text: str, reason: str) -> None:
    (in_tmp / "pyproject.toml").write_text(text)
    with pytest.raises(UserError, match=rf"pyproject\.toml.*{reason}|{reason}.*pyproject\.toml"):
        permitted_packages()


def test_a_broken_project_file_ends_a_command_with_one_line(in_tmp: Path) -> None:
    (in_tmp / "pyproject.toml").write_text("[tool.opsin\n")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    command = [sys.executable, "-m", "opsin", "train", "model=mlp"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("cannot read ")
    assert len(done.stderr.splitlines()) == 1
