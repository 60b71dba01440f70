"""`opsin train FOLDER` stands for overrides, and those of the user win."""

from pathlib import Path

import pytest

from opsin.config import compose, read_command_line
from opsin.config.shortcut import RECIPE, expand_folder, stands_for
from opsin.errors import UserError
from opsin.runs.quoting import CLONE_VARIABLE

DATA = ["datamodule=image_folder", "datamodule.path=photos"]


@pytest.fixture
def photos(in_tmp: Path) -> Path:
    (in_tmp / "photos" / "cats").mkdir(parents=True)
    return in_tmp / "photos"


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([], [*DATA, *RECIPE]),
        (["seed=1", "resume=auto"], [*DATA, *RECIPE]),
        (["trainer.max_epochs=3"], [*DATA, *RECIPE[:2]]),
        (["debug=fast"], [*DATA, *RECIPE[:2]]),
        (["datamodule.image_size=64"], [*DATA, RECIPE[0], RECIPE[2]]),
        (["model=cnn_gap"], DATA),
        (["model._target_=mine.net.Gray", "seed=1"], DATA),
        (["+model._target_=mine.net.Gray"], DATA),
        (["++model._target_=opsin.models.mlp"], DATA),
        (["~model._target_"], [*DATA, *RECIPE]),
        (["experiment=quickstart"], DATA),
        (["datamodule=cats_vs_dogs"], [DATA[1], *RECIPE]),
        (["resume=outputs/run"], DATA[1:]),
    ],
)
def test_overrides_of_the_user_win(others: list[str], expected: list[str], photos: Path) -> None:
    assert stands_for("photos", others) == expected


def test_the_long_form_is_printed_and_composes(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = expand_folder(read_command_line(["seed=3", "photos", "optimizer.lr=0.01"]))
    long = " ".join([*DATA, *RECIPE, "seed=3", "optimizer.lr=0.01"])
    assert line.overrides == tuple(long.split())
    assert capsys.readouterr().err == f"photos stands for: opsin train {long}\n"
    tree = compose(line.overrides).tree
    assert tree["datamodule"]["path"] == str(photos)
    assert tree["model"]["trainable"] == "head"

    monkeypatch.setenv(CLONE_VARIABLE, str(photos.parent))
    expand_folder(read_command_line(["-m", "photos", "seed=3,4"]))
    assert capsys.readouterr().err.startswith(f"photos stands for: python train.py -m {' '.join(DATA)} ")


def test_a_command_line_without_a_folder_is_unchanged(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["model=mlp", "~scheduler"], ["photos", "--help"]):
        line = read_command_line(arguments)
        assert expand_folder(line) is line
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("my best photos", "my best photos has a space, so quote it: 'my best photos'"),
        (
            "model=mlp datamodule.path=my best photos seed=1",
            "my best photos has a space, so quote it: 'datamodule.path=\"my best photos\"'",
        ),
        ("optimizer.lr= 0.1", "optimizer.lr= 0.1: write optimizer.lr=0.1, without the space"),
        ("my other photos", "my other photos: train takes one folder of images; other arguments are KEY=VALUE"),
        ("mine.yaml", "mine.yaml is a file: a config file of your own is configs/experiment/NAME.yaml of your project"),
    ],
)
def test_a_path_or_value_that_the_shell_has_split_is_named(typed: str, message: str, in_tmp: Path) -> None:
    (in_tmp / "my best photos").mkdir()
    (in_tmp / "mine.yaml").touch()
    with pytest.raises(UserError) as caught:
        expand_folder(read_command_line(typed.split()))
    assert str(caught.value).startswith(message)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["my photos (1)", "a=b", "~x", "2024", "null", "jürgen"])
def test_a_folder_of_any_name_becomes_the_dataset_path(name: str, in_tmp: Path) -> None:
    (in_tmp / name).mkdir()
    line = expand_folder(read_command_line([f"./{name}"]), quiet=True)
    assert compose(line.overrides).tree["datamodule"]["path"] == str(in_tmp / name)


def test_a_saved_hugging_face_dataset_is_recognized(in_tmp: Path) -> None:
    from datasets import Dataset, DatasetDict

    rows = Dataset.from_dict({"label": [0, 1]})
    rows.save_to_disk("one")
    DatasetDict({"train": rows}).save_to_disk("splits")
    for folder in ("one", "splits"):
        assert stands_for(folder)[:2] == ["datamodule=hugging_face", f"datamodule.path={folder}"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photo"], "photo: there is no such folder: did you mean photos? Train takes a folder of images, or"),
        (["photos/cat"], "photos/cat: there is no such folder: did you mean photos/cats? "),
        (
            ["no/such/place"],
            "no/such/place: there is no such folder. Train takes a folder of images, or overrides KEY=",
        ),
        (["mnist"], "mnist is not an override: did you mean datamodule=mnist?"),
        (["archive.zip"], "archive.zip is a file: train takes a folder of images with one folder per class; unpack"),
        (["run"], "run is the directory of a run: resume it with opsin train resume=run"),
        (["photos", "photos"], "photos photos: train takes one folder of images; other arguments are KEY=VALUE"),
    ],
)
def test_a_typo_is_explained(arguments: list[str], message: str, photos: Path) -> None:
    Path("archive.zip").touch()
    Path("run").mkdir()
    Path("run/config.yaml").touch()
    with pytest.raises(UserError) as raised:
        expand_folder(read_command_line(arguments))
    assert str(raised.value).startswith(message)
