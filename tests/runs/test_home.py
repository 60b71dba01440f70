"""Paths that a user gives: an empty one, such as that of an unset variable, never names the working directory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import opsin
from opsin.config import compose
from opsin.config.shortcut import stands_for
from opsin.errors import UserError
from opsin.evaluation.comparison.run_records import collect
from opsin.inference.image_arguments import find_images
from opsin.runs.home import real_path, user_path
from opsin.sweeps.sweep import sweep


def test_the_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/a") == tmp_path / "a"
    assert user_path(".") == Path()
    assert real_path("~") == tmp_path.resolve()


@pytest.mark.parametrize("path", ["", " "])
@pytest.mark.parametrize(
    "use",
    [
        user_path,
        real_path,
        stands_for,
        opsin.load,
        opsin.compare,
        lambda path: collect([path]),
        lambda path: find_images([path]),
    ],
)
def test_an_empty_path_is_refused(use: Callable[[str], Any], path: str, in_tmp: Path) -> None:
    (in_tmp / "class").mkdir()
    with pytest.raises(UserError, match=r"a path is empty, for example because a variable of the shell is not set"):
        use(path)


def test_an_empty_folder_of_sweeps_is_refused(in_tmp: Path) -> None:
    with pytest.raises(UserError, match="a path is empty"):
        sweep(["hydra.sweep.dir=''", "seed=1,2"])


@pytest.mark.parametrize("key", ["data_dir", "output_dir", "datamodule.path", "model.weights", "model.teacher"])
def test_an_empty_path_in_a_config_is_refused(key: str, in_tmp: Path) -> None:
    recipe = ["datamodule=image_folder", "datamodule.path=photos", "model=resnet18_full"]
    with pytest.raises(UserError, match=rf"^{key} is empty, .*: set it to a path, or leave it out"):
        compose([*recipe, f"++{key}="])


def test_a_path_that_the_shell_has_split_is_named(in_tmp: Path) -> None:
    for name in ("my holiday photo.png", "one.png"):
        (in_tmp / name).touch()
    with pytest.raises(UserError, match=r"matches my: my holiday photo.png has a space, so quote it: 'my"):
        find_images(["one.png", "my", "holiday", "photo.png"])
    assert find_images(["my holiday photo.png", "one.png"]) == [Path("my holiday photo.png"), Path("one.png")]
    with pytest.raises(UserError, match=r"matches my\b(?!.*has a space)"):
        find_images(["my", "one.png"])
