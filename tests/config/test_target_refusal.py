"""The messages for a `_target_` that is not accepted: packages of the user are listed, suggested and not imported."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from opsin.config.run_config import ConfigOrigin
from opsin.config.search_path import ConfigSource
from opsin.config.target_lookup import Constructors, functions_or_subclasses_of, subclasses_of
from opsin.config.validation import SectionSchema, check
from opsin.errors import UserError

OWN = Constructors({"json": subclasses_of(object), "os": lambda found: False}, functions_or_subclasses_of(dict))
SCHEMA = {"model": SectionSchema(target="model", constructors=OWN), "data": SectionSchema(target="d", constructors=OWN)}


@pytest.fixture(params=["src", "."])
def project(request: pytest.FixtureRequest, in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with two packages; the import of one leaves a file behind."""
    for name in ("my_project", "helpers"):
        folder = in_tmp / request.param / name
        folder.mkdir(parents=True)
        (folder / "tri_net.py").write_text(f"open({str(in_tmp / 'imported')!r}, 'w')\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    permit(in_tmp, "my_project")
    return in_tmp


def permit(folder: Path, *packages: str) -> None:
    (folder / "pyproject.toml").write_text(f"[tool.opsin]\ntargets = {json.dumps(packages)}\n")


def refusal(name: str) -> str:
    with pytest.raises(UserError) as caught:
        OWN.resolve(name)
    return str(caught.value)


def problems(origin: ConfigOrigin | None = None, **tree: Any) -> str:
    with pytest.raises(UserError) as caught:
        check(
            {"model": {"_target_": "json.JSONEncoder"}, "data": {"_target_": "json.JSONEncoder"}} | tree, SCHEMA, origin
        )
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("my_projct.tri_net.TriNet", "my_project.tri_net.TriNet"),
        ("myproject.any", "my_project.any"),
        ("tri_net.TriNet", "my_project.tri_net.TriNet"),
        ("jsn.JSONEncoder", "json.JSONEncoder"),
    ],
)
def test_the_nearest_permitted_name_is_suggested(project: Path, name: str, suggested: str) -> None:
    assert refusal(name) == (
        f"{name} is not accepted here: did you mean {suggested}? Accepted: json.NAME, os.NAME and names in my_project."
    )
    assert not (project / "imported").exists()


@pytest.mark.parametrize("name", ["zebra.stripes", "quad_net.TriNet", "subprocess.run", "x" * 5000 + ".y", "/etc.x"])
def test_a_name_without_a_similar_one_gets_the_accepted_packages(project: Path, name: str) -> None:
    message = refusal(name)
    assert f"{name} is not accepted here; accepted: json.NAME, os.NAME and names in my_project. To use an" in message
    assert "OPSIN_TARGETS=my_package" in message


def test_a_private_name_of_a_permitted_package_is_explained(project: Path) -> None:
    assert "that begin with _ are private" in refusal("my_project._tri_net.TriNet")


def test_packages_of_the_project_without_permission_get_one_line_to_write(project: Path) -> None:
    permit(project, "first")
    targets = ("my_project.tri_net.JSONEncoder", "helpers.tri_net.data")
    message = problems(model={"_target_": targets[0]}, data={"_target_": targets[1]})
    assert message.splitlines() == [
        "The config cannot be used:",
        f"  - model._target_: {targets[0]} is not accepted here",
        f"  - data._target_: {targets[1]} is not accepted here",
        'Way out: to permit the code of the project, write targets = ["first", "my_project", "helpers"] under '
        f"[tool.opsin] in {project / 'pyproject.toml'}",
    ]
    assert 'write targets = ["first", "helpers"] under' in refusal(targets[1])
    assert not (project / "imported").exists()


def test_no_permission_for_code_in_a_run_directory_is_proposed(project: Path) -> None:
    (project / "outputs" / "evil").mkdir(parents=True)
    (project / "outputs" / "evil" / "net.py").touch()
    assert '"outputs"' in refusal("outputs.evil.net.X")
    (project / "outputs" / "config.yaml").write_text("model: {}\n")
    assert '"outputs"' not in refusal("outputs.evil.net.X")


@pytest.mark.parametrize("variable", ["", "theirs_here"])
def test_code_of_the_project_of_a_run_names_only_that_folder(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv("OPSIN_TARGETS", variable)
    (in_tmp / "theirs_here.py").touch()  # a run's folder is never used
    origin = ConfigOrigin(ConfigSource(project=str(in_tmp)))
    message = problems(origin, model={"_target_": "theirs_here.net.Net"})
    folder = repr(str(in_tmp))
    assert message.splitlines()[1:] == [
        f"  - model._target_: theirs_here.net.Net is code of the project {folder}, in which the run was started: "
        f"start in that folder (in Python, os.chdir({folder}) before opsin.load)"
    ]
    for name in ("json.JSONEncodr", "subprocess.run", "not a name.x"):
        assert "is code of the project" not in problems(origin, model={"_target_": name})


def test_a_broken_module_outside_the_project_of_a_run_is_named(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (in_tmp / "broken_here.py").write_text("import no_such_module_here\n")
    monkeypatch.syspath_prepend(str(in_tmp))
    monkeypatch.setenv("OPSIN_TARGETS", "broken_here")
    origin = ConfigOrigin(ConfigSource(project="/elsewhere"))
    message = problems(origin, model={"_target_": "broken_here.Net"})
    assert "broken_here.Net cannot be imported: ModuleNotFoundError: No module named 'no_such_module_here'" in message


@pytest.mark.parametrize(
    ("choices", "overrides", "where"),
    [
        ({"model": "c1"}, ["model=c1"], "in configs/model/c1.yaml"),
        ({"model": "c1", "experiment": "first"}, ["experiment=first"], "in configs/model/c1.yaml"),
        ({"model": "c1"}, ["model=c1", "model._target_=null"], "on the command line (model._target_=null)"),
    ],
)
def test_a_file_without_a_target_is_named(
    in_tmp: Path, choices: dict[str, str | None], overrides: list[str], where: str
) -> None:
    for file, text in {"model/c1.yaml": "width: 3\n", "experiment/first.yaml": "model: {width: 4}\n"}.items():
        (in_tmp / "configs" / file).parent.mkdir(parents=True)
        (in_tmp / "configs" / file).write_text(text)
    origin = ConfigOrigin(ConfigSource(), choices, overrides, [in_tmp / "configs"])
    expected = f"  - model._target_ is missing: add the dotted name of a constructor  [set {where}]"
    assert problems(origin, model={"width": 3}).splitlines()[1:] == [expected]
