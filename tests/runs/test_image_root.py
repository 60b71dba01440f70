"""A wrong folder of images is refused with the correct one, before a library is loaded or a file is written."""

import subprocess
import sys
from pathlib import Path

import pytest

from opsin.errors import UserError
from opsin.runs.image_root import check_image_root

QUIET = """
import sys
from opsin.commands.train_cli import main
code = main(sys.argv[1:])
sys.exit(code if not {"torch", "lightning"} & set(sys.modules) else 5)
"""


@pytest.fixture
def pictures(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures of two classes beside a project, which is the working directory."""
    for name in ("cats", "dogs"):
        (in_tmp / "my_pictures" / name).mkdir(parents=True)
        (in_tmp / "my_pictures" / name / "1.png").touch()
    (in_tmp / "project" / "photos").mkdir(parents=True)
    monkeypatch.chdir(in_tmp / "project")
    return in_tmp / "my_pictures"


@pytest.mark.parametrize(
    ("path", "suggestion"),
    [
        ("../my_picture", ": did you mean ../my_pictures?"),
        ("my_picture", ": did you mean ../my_pictures?"),
        ("photo", ": did you mean photos?"),
        ("../my_pictures/cat", ": did you mean ../my_pictures/cats?"),
        ("xyzzy", "."),
        ("no/such/place", "."),
    ],
)
def test_a_missing_folder_is_refused_with_the_nearest_one(pictures: Path, path: str, suggestion: str) -> None:
    with pytest.raises(UserError) as raised:
        check_image_root(path)
    assert f"does not exist{suggestion} Name the folder" in str(raised.value)


def test_a_class_folder_is_refused_with_the_folder_above(pictures: Path) -> None:
    check_image_root(pictures)
    with pytest.raises(UserError, match="If cats is itself a class, give the folder above it: datamodule"):
        check_image_root(pictures / "cats")


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [["datamodule=image_folder", "datamodule.path=../my_picture"], ["../my_pictures/cats"]]
)
def test_a_wrong_folder_loads_no_torch_and_leaves_no_run(pictures: Path, words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", QUIET, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "my_pictures" in done.stderr.splitlines()[-1]
    assert [path.name for path in Path().iterdir()] == ["photos"]
