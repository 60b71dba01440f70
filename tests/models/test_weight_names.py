"""Names of weights do not depend on the files in the working directory."""

from pathlib import Path

import pytest

from opsin.config import compose
from opsin.config.compose import WEIGHT_NAMES
from opsin.models.weights import KINDS


def test_the_config_accepts_every_name_of_weights() -> None:
    assert set(WEIGHT_NAMES) == {*KINDS, "none"}


@pytest.mark.parametrize("name", WEIGHT_NAMES)
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_names_of_weights_take_precedence_over_files_and_folders(in_tmp: Path, name: str, kind: str) -> None:
    (in_tmp / name).mkdir() if kind == "folder" else (in_tmp / name).touch()
    assert compose(["model=resnet18_partial", f"model.weights={name}"]).tree["model"]["weights"] == name


def test_any_other_folder_is_a_path(in_tmp: Path) -> None:
    (in_tmp / "mine").mkdir()
    tree = compose(["model=resnet18_partial", "model.weights=mine"]).tree
    assert tree["model"]["weights"] == str(in_tmp / "mine")
