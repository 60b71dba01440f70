"""Warnings about the data of a run are recorded, and a command that opens the run does not repeat them."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from colored_folders import colored_folder

from opsin.commands.train import train
from opsin.commands.verify import verify
from opsin.config import compose
from opsin.inference.opened_run import open_run
from opsin.inference.trained_model import load_trained_model
from opsin.runs.directory import RunDirectory
from opsin.training.run_warnings import known_warnings


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run whose validation split has few images of each class."""
    place = tmp_path / "run"
    place.mkdir()
    images = [f"datamodule.path={colored_folder(tmp_path / 'photos') / 'train'}", "datamodule.val_fraction=0.05"]
    quick = ["model=mlp", "trainer=cpu", "trainer.max_epochs=1", "callbacks.progress.bar=false", "logger=none"]
    places = [f"data_dir={tmp_path / 'data'}", f"output_dir={tmp_path}", "report=false"]
    train(compose(["datamodule=image_folder", "datamodule.image_size=12", *images, *quick, *places], place))
    return RunDirectory(place)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    caplog.clear()
    return found


def test_a_command_does_not_repeat_the_recorded_warnings(run: RunDirectory, caplog: pytest.LogCaptureFixture) -> None:
    result = run.read_result()
    few = [text for text in result.warnings if "val recall is not reliable" in text]
    assert len(few) >= 2
    caplog.clear()
    opened = open_run(run)
    assert len(opened.data.subset("val")) > 0
    load_trained_model(str(run.path))
    verify(run)
    assert warnings_of(caplog) == []
    run.write_result(replace(result, warnings=[text for text in result.warnings if text != few[0]]))
    assert len(open_run(run).data.subset("test")) > 0
    assert warnings_of(caplog) == [few[0]]


def test_only_known_warnings_about_data_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    data, other = logging.getLogger("opsin.data.source"), logging.getLogger("opsin.models.weights")
    with known_warnings(["one"]):
        for logger in (data, other):
            logger.warning("%s", "one")
            logger.warning("two")
    data.warning("one")
    assert warnings_of(caplog) == ["two", "one", "two", "one"]
