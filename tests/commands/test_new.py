"""`opsin new`: the project is small, trains at once, passes its test, and needs no PYTHONPATH in any command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from opsin.commands import new

SOURCE = Path(new.__file__).parents[2]
QUIET = ("trainer.max_epochs=1", "callbacks=no_pictures", "logger=none", "report=false")


def opsin(project: Path, *arguments: str) -> str:
    """Run a command in a project; only Opsin itself is on the path of modules."""
    environment = {key: value for key, value in os.environ.items() if key != "OPSIN_TARGETS"}
    command = [sys.executable, "-P", "-m", *arguments]
    environment |= {"PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new project with one finished run."""
    folder = tmp_path_factory.mktemp("new") / "my photos" / "nets"
    folder.parent.mkdir()
    assert new.main([str(folder)]) == 0
    assert "my_project" not in "".join(file.read_text() for file in folder.rglob("*") if file.is_file())
    opsin(folder, "opsin", "train", *QUIET)
    return folder


@pytest.mark.slow
def test_the_project_is_small_and_trains_its_own_parts(project: Path) -> None:
    lines = [line for file in new.TEMPLATE.rglob("*.template") for line in file.read_text().splitlines()]
    assert len(lines) < 60
    assert max(map(len, lines)) <= 110
    run = (project / "outputs" / "latest").resolve()
    assert "_first_" in run.name  # the experiment of the project
    result = json.loads((run / "result.json").read_text())
    assert result["status"] == "finished"
    assert result["data"]["name"] == "bars"
    assert result["settings"]["augmentation"].startswith("ColorJitter(brightness=")
    assert [row["name"] for row in result["network"]["rows"]] == ["conv2d_0", "head"]
    assert f"project: {project}" in (run / "overrides.yaml").read_text()


@pytest.mark.slow
def test_commands_open_the_runs_of_the_project(project: Path) -> None:
    opsin(project, "opsin", "train", "resume=outputs/latest", "trainer.max_epochs=2")
    assert "test/acc" in opsin(project, "opsin", "evaluate", "outputs/latest")
    opsin(project / "outputs" / "latest", "opsin", "evaluate", ".")  # a folder inside the project


@pytest.mark.slow
def test_the_test_of_the_project_passes_and_other_commands_work(project: Path) -> None:
    assert "1 passed" in opsin(project, "pytest", "-q", "-p", "no:cacheprovider")
    opsin(project, "opsin", "interpret", "outputs/latest", "--what", "gradcam", "--out", "figures")
    assert list((project / "figures").rglob("*.png"))
    opsin(project, "opsin", "export", "outputs/latest", "--format", "safetensors", "--out", "net.safetensors")
    from PIL import Image

    Image.new("L", (20, 20), 90).save(project / "gray.png")
    assert "gray.png" in opsin(project, "opsin", "predict", "outputs/latest", "gray.png")
    table = opsin(project, "opsin", "train", "-m", "model.width=4,8", "launcher.jobs=1", *QUIET)
    assert "failed" not in table
    results = [json.loads(file.read_text()) for file in (project / "outputs" / "sweeps").rglob("result.json")]
    assert [result["status"] for result in results] == ["finished"] * 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my-net", "my-net cannot be the name of a Python package: use my_net"),
        ("3d nets", "3d nets cannot be the name of a Python package: use my_3d_nets"),
        ("class", "class cannot be the name of a Python package: use my_class"),
        ("ünet", "ünet cannot be the name of a Python package: use net"),
        ("_lab", "_lab cannot be the name of a Python package that configs name: use lab"),
        ("__init__", "__init__ cannot be the name of a Python package that configs name: use init"),
        ("torch", "torch is the name of an installed Python package: use my_torch"),
        ("random", "random is the name of an installed Python package: use my_random"),
        ("taken", "taken exists already"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused(
    name: str, message: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (in_tmp / "taken").mkdir()
    assert new.main([name]) == 1
    assert capsys.readouterr().err.startswith(message)
    assert [file.name for file in in_tmp.iterdir()] == ["taken"]


def test_the_home_of_an_unknown_user_is_an_ordinary_name(in_tmp: Path) -> None:
    assert new.main(["~nosuchuser/nets"]) == 0
    assert (in_tmp / "~nosuchuser" / "nets" / "pyproject.toml").is_file()
