"""Names of weights do not depend on the files in the working directory."""

from pathlib import Path

import pytest

from opsin.config import compose
from opsin.config.path_values import WEIGHT_NAMES
from opsin.models import load_weights, mlp
from opsin.models.weights import KINDS


def test_the_config_accepts_every_name_of_weights() -> None:
    assert set(WEIGHT_NAMES) == {*KINDS, "none"}


@pytest.mark.slow
@pytest.mark.parametrize("name", WEIGHT_NAMES)
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_names_of_weights_take_precedence_over_files_and_folders(in_tmp: Path, name: str, kind: str) -> None:
    (in_tmp / name).mkdir() if kind == "folder" else (in_tmp / name).touch()
    assert compose(["model=resnet18_partial", f"model.weights={name}"]).tree["model"]["weights"] == name


def test_the_log_says_that_a_name_of_weights_is_no_path(in_tmp: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    (in_tmp / "none").mkdir()
    load_weights(mlp(num_logits=2, in_channels=1, image_size=(8, 8)), "none")
    assert f"not {in_tmp / 'none'}; write ./none for that path" in caplog.text
    tree = compose(["model=resnet18_partial", "model.weights=./none"]).tree
    assert tree["model"]["weights"] == str(in_tmp / "none")


def test_a_folder_does_not_hide_the_network_of_a_teacher(in_tmp: Path) -> None:
    (in_tmp / "resnet18").mkdir()
    (in_tmp / "run").mkdir()
    (in_tmp / "run" / "config.yaml").touch()
    for teacher, expected in (("resnet18", "resnet18"), ("run", str(in_tmp / "run"))):
        assert compose(["model=cnn_gap", f"model.teacher={teacher}"]).tree["model"]["teacher"] == expected


def test_any_other_folder_is_a_path(in_tmp: Path) -> None:
    (in_tmp / "mine").mkdir()
    tree = compose(["model=resnet18_partial", "model.weights=mine"]).tree
    assert tree["model"]["weights"] == str(in_tmp / "mine")
