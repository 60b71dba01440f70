import json
import os
import re
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from made_runs import made_run

from opsin.commands.explore import models as module
from opsin.commands.explore.classify_tab import classify
from opsin.commands.explore.features_tab import activation_picture, kernel_picture
from opsin.commands.explore.models import RunModels
from opsin.commands.explore.runs_tab import report_file, runs_html
from opsin.errors import UserError
from opsin.inference.inputs import open_images
from opsin.runs.directory import RunDirectory
from opsin.runs.predictions import read_predictions, softmax


@pytest.fixture(scope="module")
def models(digits_run: RunDirectory) -> RunModels:
    return RunModels(digits_run.path.parent)


def test_runs_are_named_by_their_relative_path(models: RunModels) -> None:
    assert list(models.runs()) == ["run"]
    assert models.names(with_classes=True) == ["run"]


@pytest.mark.parametrize("name", [None, "", "..", "../outputs/run", "/etc", "run/../run", "efficientnet", "latest"])
def test_nothing_but_runs_is_opened(models: RunModels, name: str | None) -> None:
    with pytest.raises(UserError, match=r"no run .* in|Choose a run"):
        models.open(name)


@pytest.mark.slow
def test_a_network_is_opened_once_and_one_at_a_time(
    digits_run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        shutil.copytree(digits_run.path, tmp_path / name)
    opened = []
    monkeypatch.setattr(
        module, "_open", lambda name, run, _: opened.append(name) or module.OpenModel(name, None, run, None)
    )
    models = RunModels(tmp_path)
    for name in ("a", "a", "b", "a"):
        assert models.open(name).name == name
    assert opened == ["a", "b", "a"]
    (tmp_path / "a" / "checkpoints" / "best.ckpt").touch()  # training was resumed
    models.open("a")
    assert opened == ["a", "b", "a", "a"]


def test_probabilities_are_those_of_validation(models: RunModels, digits_run: RunDirectory) -> None:
    opened = models.open("run")
    kept, temperature = read_predictions(digits_run, "val"), digits_run.read_result().calibration.temperature
    expected = softmax(kept.logits, temperature)
    for position in (0, 5, len(kept) - 1):
        pixels, target = opened.validation_image(position)
        assert target == kept.targets[position]
        np.testing.assert_allclose(list(opened.probabilities(pixels).values()), expected[position], atol=1e-6)


def test_an_image_is_classified_with_a_map(models: RunModels) -> None:
    probabilities, seen, over, text = classify(models, "run", 3, "gradcam", "the last spatial stage", "7")
    assert sum(probabilities.values()) == pytest.approx(1)
    assert seen.shape == over.shape
    assert "validation image 3" in text
    assert "evidence for &#x27;7&#x27;" in text
    with pytest.raises(UserError, match="Drop an image"):
        classify(models, "run", None, "gradcam", "", "")


@pytest.mark.parametrize(("data_dir", "overrides"), [(None, []), ("moved, or not", ['data_dir="moved, or not"'])])
def test_validation_images_are_read_from_the_folder_of_the_datasets(
    digits_run: RunDirectory, monkeypatch: pytest.MonkeyPatch, data_dir: str | None, overrides: list[str]
) -> None:
    given = []
    monkeypatch.setattr(module, "open_images", lambda _, words: given.append(words) or open_images(_))
    assert len(RunModels(digits_run.path.parent, data_dir).open("run").validation)
    assert given == [overrides]


def test_features(models: RunModels) -> None:
    opened = models.open("run")
    picture, text = activation_picture(opened, 0, opened.stages[0])
    assert picture.ndim == 3
    assert "are zero everywhere for this image" in text
    with pytest.raises(UserError, match="no stage or layer"):
        activation_picture(opened, 0, "elsewhere")
    assert "kernels of 3 x 3 on 1 channel, " in kernel_picture(opened)[1]


def test_reports_are_opened_from_run_directories_only(digits_run: RunDirectory, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    shutil.copytree(digits_run.path, outputs / "day" / "a <b> & 'c'")
    shutil.copytree(digits_run.path, outputs / "linked")
    shutil.copytree(digits_run.path, outputs / "circle")
    (outputs / "circle" / "report.html").unlink(missing_ok=True)
    (outputs / "circle" / "report.html").symlink_to("report.html")
    (tmp_path / "report.html").write_text("a secret")
    (outputs / "day" / "a <b> & 'c'" / "report.html").write_text("a report")
    (outputs / "linked" / "report.html").unlink(missing_ok=True)
    (outputs / "linked" / "report.html").symlink_to(tmp_path / "report.html")
    models = RunModels(outputs)
    assert report_file(models, "day/a <b> & 'c'") == outputs / "day" / "a <b> & 'c'" / "report.html"
    for name in ("..", "../", "linked", "circle", "day", "", "day/../day/a <b> & 'c'", str(tmp_path), "/etc/passwd"):
        assert report_file(models, name) is None
    with pytest.MonkeyPatch.context() as patch:
        calls: list[int] = []
        found = models.runs()
        patch.setattr(models, "runs", lambda: calls.append(1) or found)
        table, curves = runs_html(models, "test/acc")
    assert len(calls) == 1  # the folder is read once, however many runs it has
    assert "/report/day/a%20%3Cb%3E%20%26%20%27c%27" in table
    assert "<b>" not in table
    assert "<svg" in curves


def test_the_curves_are_means_over_the_runs_of_a_row(tmp_path: Path) -> None:
    made_run(tmp_path / "0", [True], overrides=["seed=0"], epochs=(0.25, 0.5))
    made_run(tmp_path / "1", [True], overrides=["seed=1"], epochs=(0.75, 0.5))
    _, curves = runs_html(RunModels(tmp_path), "val/acc")
    assert "A cnn_gap, epoch 1: 0.5<" in curves
    assert "0.25" not in re.findall("<title>(.*?)</title>", curves)


def test_a_folder_without_runs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No runs in"):
        runs_html(RunModels(tmp_path), "test/acc")


def test_a_run_with_a_damaged_metric_does_not_hide_the_others(digits_run: RunDirectory, tmp_path: Path) -> None:
    for name in ("good", "damaged"):
        shutil.copytree(digits_run.path, tmp_path / name)
    file = tmp_path / "damaged" / "result.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"custom_metrics": [{"name": "top5"}]}))
    table, _ = runs_html(RunModels(tmp_path), "test/acc")
    assert 'title="good"' in table
    assert "damaged, unreadable" in table


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text on other systems")
@pytest.mark.parametrize("name", [b"caf\xe9", b"day/\xff\xfe <b>"])
def test_a_run_whose_name_is_not_valid_text_has_its_report(
    digits_run: RunDirectory, tmp_path: Path, name: bytes
) -> None:
    shutil.copytree(digits_run.path, tmp_path / os.fsdecode(name))
    (tmp_path / os.fsdecode(name) / "report.html").write_text("the report")
    models = RunModels(tmp_path)
    table, curves = runs_html(models, "test/acc")
    (table + curves).encode()
    address = re.search('href="/report/([^"]+)"', table)
    assert address
    found = report_file(models, unquote(address[1]))
    assert found
    assert found.read_text() == "the report"
