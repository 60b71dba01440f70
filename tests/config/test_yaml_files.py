"""Config files with invalid YAML and folders that cannot be written to give one message."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from opsin.config import CONFIGS, compose, refuse_broken_files
from opsin.errors import UserError
from opsin.runs.atomic import check_writable

ROOT = CONFIGS.parent


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(CONFIGS, tmp_path / "configs")
    monkeypatch.setattr("opsin.config.locations.CONFIGS", tmp_path / "configs")
    return tmp_path / "configs"


def test_a_file_that_is_no_yaml_is_named_with_the_line(configs: Path) -> None:
    (configs / "experiment" / "mine.yaml").write_text("seed: 1\ntrainer: [\n  a: {\n")
    place = r"experiment/mine\.yaml, line \d: not valid YAML"
    for words in (["experiment=mine"], ["+experiment=mine"], ["-m", "experiment=quickstart,mine"]):
        with pytest.raises(UserError, match=place):
            refuse_broken_files(words)
    with pytest.raises(UserError, match=place):
        compose(["experiment=mine"])


@pytest.mark.parametrize(
    "words", ["experiment=[quickstart,mine]", "experiment=[mine, quickstart]", "experiment=['mine']"]
)
def test_a_broken_file_in_a_list_of_options_is_named(words: str, configs: Path) -> None:
    (configs / "experiment" / "mine.yaml").write_bytes("seed: 1 # grün\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"experiment/mine\.yaml: not UTF-8 text"):
        compose([words])


def test_a_broken_file_that_another_one_loads_is_named(configs: Path) -> None:
    (configs / "trainer" / "auto.yaml").write_text("devices: 1: 2\n")
    with pytest.raises(UserError, match=r"trainer/auto\.yaml, line 1"):
        refuse_broken_files([])
    with pytest.raises(UserError, match=r"trainer/auto\.yaml, line 1"):
        refuse_broken_files(["trainer=cpu"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("seed: 1 # grün\n".encode("latin-1"), r"mine\.yaml: not UTF-8 text \(byte 12\); save it as UTF-8"),
        (b"\xef\xbb\xbf# @package _global_\nseed: 1\n", r"mine\.yaml: begins with a byte order mark"),
    ],
)
def test_a_file_in_another_encoding_is_named(content: bytes, message: str, configs: Path) -> None:
    (configs / "experiment" / "mine.yaml").write_bytes(content)
    with pytest.raises(UserError, match=message):
        refuse_broken_files(["experiment=mine"])


def test_a_file_in_another_encoding_that_another_one_loads_is_named(configs: Path) -> None:
    (configs / "trainer" / "auto.yaml").write_bytes("devices: 1 # zwölf\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"trainer/auto\.yaml: not UTF-8"):
        refuse_broken_files(["trainer=cpu"])


def test_the_message_about_a_broken_file_names_no_valid_override(configs: Path) -> None:
    (configs / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /model: none_such\n"
    )
    with pytest.raises(UserError) as caught:
        compose(["experiment=mine", "report=false"])
    assert "report" not in str(caught.value).split("\n")[0]
    assert "none_such" in str(caught.value)


def test_a_broken_file_that_is_not_loaded_is_ignored(configs: Path) -> None:
    (configs / "experiment" / "mine.yaml").write_text("trainer: [\n")
    assert compose(["model=mlp", "optimizer.lr=2"]).tree["optimizer"]["lr"] == 2
    with pytest.raises(UserError, match=r"^model=no_such_model is not known"):
        compose(["model=no_such_model"])
    multirun = ["model=mlp,cnn_gap", "optimizer.lr=1,2", "-m"]
    refuse_broken_files(multirun)
    with pytest.raises(UserError) as caught:
        refuse_broken_files([*multirun, "experiment=mine"])
    assert str(caught.value).startswith(f"{configs / 'experiment' / 'mine.yaml'}, line ")


def test_missing_writable_folders_are_accepted_and_not_created(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b", "output_dir")
    assert list(tmp_path.iterdir()) == []


def test_folders_that_cannot_be_written_to_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"output_dir=.*file is a file"):
        check_writable(tmp_path / "file" / "outputs", "output_dir")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match="cannot be written to; set output_dir"):
        check_writable(tmp_path / "outputs", "output_dir")


@pytest.mark.slow
@pytest.mark.parametrize("word", ["output_dir=file", "hydra.run.dir=file/run"])
def test_the_command_line_reports_an_unwritable_folder_in_one_line(word: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    command = [sys.executable, str(ROOT / "train.py"), word]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "is a file, not a folder" in done.stderr
