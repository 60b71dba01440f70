"""The report of a run: its content, that it is one valid self-contained file, and the reports of failed runs."""

import base64
import json
import math
import os
import shutil
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import html5lib
import numpy as np
import pytest
import yaml
from PIL import EpsImagePlugin, Image, PngImagePlugin

from opsin.config.saved_config import start_command
from opsin.evaluation.calibration import fit_temperature, reliability
from opsin.evaluation.confidence_intervals import accuracy_interval
from opsin.evaluation.report.confusion_and_calibration import calibration_section
from opsin.evaluation.report.learning_curves import best_epoch
from opsin.evaluation.report.page import write_report
from opsin.evaluation.report.pictures import index_file, read_pictures
from opsin.evaluation.report.result_summary import summarize_result
from opsin.runs.directory import RunDirectory
from opsin.runs.metrics_csv import read_epochs
from opsin.runs.predictions import predictions_file, read_predictions
from opsin.runs.result import Calibration, DataFacts, Hardware, RunResult
from opsin.visualization.formatting import percent
from opsin.visualization.images import encode, file_uri

HTML = "{http://www.w3.org/1999/xhtml}"


def write_png(image: Any, path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(encode(image))
    return path


def read(page: Path) -> Any:
    """Parse the page; html5lib's strict parser raises at the first error."""
    return html5lib.HTMLParser(strict=True).parse(page.read_text(encoding="utf-8"))


def text(tree: Any) -> str:
    return " ".join(" ".join(tree.itertext()).split())


def test_the_page_is_valid_and_self_contained(write) -> None:
    page = write_report(write())
    assert page.name == "report.html"
    tree = read(page)
    ids = {part.get("id") for part in tree.iter() if part.get("id")}
    for part in tree.iter():
        assert part.tag not in {f"{HTML}script", f"{HTML}iframe", f"{HTML}object"}
        for name in ("src", "href"):
            target = part.get(name)
            assert target is None or target.startswith("data:") or target[1:] in ids, (part.tag, target)
    source = page.read_text(encoding="utf-8")
    assert "default-src 'none'" in source
    assert "url(" not in source
    assert "@import" not in source
    assert {"curves", "confusion", "classes", "calibration", "misclassified", "model", "config", "provenance"} <= ids


def test_the_headline_states_the_accuracy_with_its_interval(write) -> None:
    facts = {"counts": {"test": 400}, "origin": {"test": "given"}, "bad_images": 2, "fingerprint": "f"}
    run = write(data=DataFacts(name="pets", channels=1, image_size=(8, 8), **facts))
    predictions = read_predictions(run, "test")
    found = summarize_result("tiny", run.read_result(), predictions)
    interval = accuracy_interval(int(predictions.correct.sum()), 400)
    assert found.headline == (
        f"tiny classifies {percent(interval.estimate)} of 400 test images of pets correctly (2 classes, "
        f"95 % interval {percent(interval.low)} to {percent(interval.high)})."
    )
    assert found.headline in text(read(write_report(run)))


def test_without_test_images_the_page_warns(write) -> None:
    run = write()
    predictions_file(run, "test").unlink()
    said = text(read(write_report(run)))
    assert "of 400 validation images of its data correctly" in said
    assert "so this accuracy is too optimistic" in said
    assert "has not been tested on the test images" in said


@pytest.mark.parametrize("damage", ["deleted", "damaged", "not finite"])
def test_a_tested_run_whose_test_predictions_cannot_be_read_is_not_called_untested(write, damage: str) -> None:
    run = write(metrics={"test/acc": 0.9, "val/acc": 0.8})
    predictions, file = read_predictions(run, "test"), predictions_file(run, "test")
    if damage == "deleted":
        file.unlink()
    elif damage == "damaged":
        file.write_bytes(b"no predictions")
    else:
        predictions.logits[3, 0] = np.nan
        predictions.write(run)
    said = text(read(write_report(run)))
    assert "The best checkpoint was tested, but its predictions of the test images cannot be read." in said
    assert "has not been tested" not in said
    assert ("training has diverged" if damage == "not finite" else "opsin evaluate") in said


def test_a_constant_prediction_is_named(write) -> None:
    run = write()
    predictions = read_predictions(run, "test")
    constant = np.tile(np.array([1, 0], np.float32), (len(predictions), 1))
    type(predictions)(**{**vars(predictions), "logits": constant}).write(run)
    assert "not significantly better than a constant prediction" in text(read(write_report(run)))


def test_overfitting_is_named(write) -> None:
    predictions = read_predictions(write(), "test")
    words = summarize_result("tiny", RunResult(metrics={"train/acc": 0.999, "val/acc": 0.8}), predictions).remarks
    assert "overfitting" in words[-1]
    words = summarize_result("tiny", RunResult(metrics={"train/acc": 0.81, "val/acc": 0.8}), predictions).remarks
    assert "overfitting" not in words[-1]


def test_the_temperature_is_fitted_on_val_and_evaluated_on_test(write) -> None:
    run = write()
    both = {split: read_predictions(run, split) for split in ("val", "test")}
    found = calibration_section(both)
    assert found.temperature == fit_temperature(both["val"].logits, both["val"].targets)
    assert found.ece[0] == reliability(both["test"].probabilities, both["test"].targets).ece
    assert len(found.charts) == 2
    alone = calibration_section({"val": both["val"]})
    assert (alone.temperature, len(alone.charts)) == (None, 1)


def test_the_recorded_temperature_takes_precedence(write) -> None:
    run = write(calibration=Calibration(1.75, None, 400, (0.5, 0.4)))
    page = text(read(write_report(run)))
    assert "divides all logits by 1.75" in page
    assert "exported files of this run apply it. The metrics on this page are measured without it" in page
    run.write_result(replace(run.read_result(), calibration=Calibration(reason="no temperature fits better")))
    page = text(read(write_report(run)))
    assert "The temperature of this run is 1: no temperature fits better." in page
    assert "Temperature scaling divides" not in page


def test_a_temperature_that_the_run_has_not_recorded_is_not_said_to_be_applied(write) -> None:
    run = write("interrupted")
    page = text(read(write_report(run)))
    assert run.read_result().temperature == 1
    assert "Temperature scaling divides" in page
    assert "The run has not recorded it, so its predictions do not apply it." in page
    assert "apply it. The metrics" in page
    assert "Predictions and exported files" not in page


def test_the_best_epoch_is_the_recorded_one_or_that_of_the_monitored_metric(write) -> None:
    rows = read_epochs(write().metrics)
    monitor = "val/loss"
    assert best_epoch(rows, RunResult(best_epoch=3), monitor) == 3
    assert best_epoch(rows, RunResult(), monitor) == 2  # the third is not a number
    assert best_epoch(rows, RunResult(), "train/acc") == 3
    assert best_epoch([], RunResult(), monitor) is None


@pytest.mark.parametrize(
    ("recorded", "trained", "said"),
    [
        ({"best_epoch": 1.75, "epochs": 2}, (0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2), "1.75 of 2 best epoch"),
        ({"best_epoch": 2, "epochs": 3}, (1, 2), "2 of 3 best epoch"),
        ({}, (0.5, 1, 1.5), "1 of 1.5 best epoch"),  # it is still running
    ],
)
def test_the_best_epoch_is_one_of_the_trained_epochs(
    recorded: dict[str, Any], trained: tuple[float, ...], said: str, write
) -> None:
    run = write(**recorded)
    rows = [f"{epoch},{step},{abs(epoch - 1)}" for step, epoch in enumerate(trained)]
    run.metrics.write_text("\n".join(["epoch,step,val/loss", *rows, ""]))
    assert said in text(read(write_report(run)))


def test_the_command_of_the_page_is_that_of_the_run(write) -> None:
    run = write()
    record = {"overrides": ["model=mine", "tags=[a b]"], "search_path": ["/my configs"], "config_name": "other"}
    run.overrides.write_text(yaml.safe_dump(record))
    command = start_command(run)
    assert "'/my configs'" in command
    assert "--config-name" in command
    assert command in text(read(write_report(run)))


def test_the_start_of_a_run_is_that_of_its_log(write) -> None:
    run = write()
    assert ", started" not in text(read(write_report(run)))
    run.log.write_text("a format of the user\n")
    assert ", started" not in text(read(write_report(run)))
    run.log.write_text("[2025-03-04 05:06:07,891][opsin][INFO] a\n[2026-01-01 00:00:00,000][opsin][INFO] resumed\n")
    assert "run, started 04 March 2025, 05:06" in text(read(write_report(run)))


def test_the_page_shows_the_summary_of_the_network(write) -> None:
    said = text(read(write_report(write())))
    assert "tiny for images 1x8x8" in said
    assert "low 4x8x8 40 40 2,560 3 px total 40 40 2,560" in said


def test_a_run_without_a_summary_has_a_page(write) -> None:
    assert "receptive field" not in text(read(write_report(write(network=None))))


@pytest.mark.parametrize(
    ("status", "said"),
    [("failed", "RuntimeError: <out> of memory"), ("interrupted", "run is not finished"), ("finished", "finished")],
)
def test_every_status_has_a_page(write, status: str, said: str) -> None:
    run = write(status, count=0, error="RuntimeError: <out> of memory" if status == "failed" else None)
    page = text(read(write_report(run)))
    assert said in page
    assert "There are no predictions to evaluate." in page
    assert f"opsin evaluate {run.path} --split val" in page
    run.write_result(replace(run.read_result(), metrics={"test/acc": 0.5}))  # the test images have been read
    assert f"opsin evaluate {run.path} --split test" in text(read(write_report(run)))


def test_a_run_that_failed_before_its_first_epoch_has_a_page(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.config.write_text("seed: 1\n")
    run.write_result(RunResult(status="failed", error="UserError: no images"))
    assert "UserError: no images" in text(read(write_report(run)))
    run.result.unlink()
    assert "not started" in text(read(write_report(run)))


def test_logits_that_are_not_finite_are_reported(write) -> None:
    run = write()
    for split in ("val", "test"):
        predictions = read_predictions(run, split)
        predictions.logits[3, 0] = np.nan
        predictions.write(run)
    assert "training has diverged" in text(read(write_report(run)))


def test_all_values_are_escaped(write) -> None:
    evil = "<script>alert(1)</script>\"'&"
    run = write("failed", (evil, "dog"), error=evil, choices={"model": evil}, weights=evil, commit=evil)
    run.overrides.write_text(f"overrides: ['{evil.replace(chr(39), '')}']\n")
    run.config.write_text(f"# {evil}\nseed: 1\n")
    write_png(np.zeros((4, 4, 3), np.uint8), run.path / "pictures" / "a.png")
    entry = {"image": "a.png", "cam": None, "path": evil, "true": evil, "predictions": [[evil, 0.9]]}
    index = {"split": "test", "misclassified": [entry], "stage": evil, "note": evil, "augmentation": None}
    index_file(run).write_text(json.dumps({**index, "augmentation_text": evil, "kernels": None, "kernels_layer": evil}))
    page = write_report(run)
    assert "<script" not in page.read_text()
    assert evil in text(read(page))


def test_images_are_embedded_and_the_index_cannot_point_outside(write, tmp_path: Path) -> None:
    run = write()
    secret = write_png(np.zeros((9, 9, 3), np.uint8), tmp_path / "secret.png")
    photograph = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    write_png(photograph, run.path / "pictures" / "photo.png")
    small = write_png(np.zeros((9, 7, 3), np.uint8), run.path / "pictures" / "small.png")
    Image.new("RGB", (5, 5)).save(run.path / "pictures" / "other.png", "WEBP")
    entries = [
        {"image": name, "cam": None, "path": "p", "true": "cat", "predictions": [["dog", 0.9], ["cat", 0.1]]}
        for name in ("photo.png", "small.png", "other.png", str(secret), "../../secret.png", "gone.png")
    ]
    index = {"split": "test", "misclassified": entries, "stage": None, "note": None, "augmentation": "gone.png"}
    index_file(run).write_text(
        json.dumps({**index, "augmentation_text": "none", "kernels": None, "kernels_layer": None})
    )
    found = read_pictures(run)
    assert found is not None
    shown = [mistake.image for mistake in found.misclassified]
    assert [(image.width, image.source[:16]) for image in shown] == [
        (128, "data:image/webp;"),
        (7, "data:image/png;b"),
        (5, "data:image/png;b"),
    ]
    assert shown[1].source == file_uri(small.read_bytes(), "PNG")  # not encoded again
    assert base64.b64decode(shown[2].source.partition(",")[2]).startswith(b"\x89PNG")
    assert found.augmentation is None
    assert text(read(write_report(run))).count("labeled cat") == 3


def test_values_of_other_types_in_the_list_of_images_are_shown_as_text(write) -> None:
    run = write()
    write_png(np.zeros((9, 7, 3), np.uint8), run.path / "pictures" / "small.png")
    entries = [
        {"image": "small.png", "cam": "small.png", "path": path, "true": true, "predictions": predictions}
        for path, true, predictions in ((3, None, [[7, 0.5]]), (None, ["cat"], [["dog", 1]]), ("p", "cat", []))
    ]
    index = {"split": "test", "misclassified": entries, "stage": None, "note": None, "augmentation": None}
    index |= {"augmentation_text": "none", "kernels": None, "kernels_layer": None}
    index_file(run).write_text(json.dumps(index))
    page = text(read(write_report(run)))
    assert page.count("labeled ") == 2  # without a prediction, an image is not misclassified
    assert "7 (50 %) labeled None 3" in page


def test_facts_that_are_not_known_are_left_out(write) -> None:
    facts = DataFacts(name="pets", counts={"train": 1200}, image_size=(8, 8))
    hardware = Hardware("a processor", None, None)
    run = write(hardware=hardware, data=facts, seconds={"total": math.nan, "fit": math.inf})
    page = text(read(write_report(run)))
    assert "a processor" in page
    assert "GiB" not in page
    assert "1,200 images" in page


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n(code) print\n%%EOF\n"


def png_header(width: int, height: int) -> bytes:
    """Return the start of a PNG file, to the end of its first data block."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0")))
    parts = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("kind", ["EPS", "bomb", "text bomb", "pipe", "folder", "BMP"])
def test_only_small_png_and_webp_files_of_a_run_are_decoded(write, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments: started.append(arguments))
    run = write()
    file = run.path / "pictures" / "evil.png"
    file.parent.mkdir()
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "BMP":
        Image.new("RGB", (5, 5)).save(file, "BMP")
    elif kind == "text bomb":
        text_chunk = PngImagePlugin.PngInfo()
        text_chunk.add_text("text", "0" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
        Image.new("RGB", (5, 5)).save(file, "PNG", pnginfo=text_chunk)
    else:
        file.write_bytes(EPS if kind == "EPS" else png_header(30_000, 30_000))
    write_png(np.zeros((9, 7, 3), np.uint8), run.path / "pictures" / "good.png")
    index = {"split": "test", "misclassified": [], "stage": None, "note": None, "augmentation": "evil.png"}
    index_file(run).write_text(
        json.dumps({**index, "augmentation_text": "none", "kernels": "good.png", "kernels_layer": "conv"})
    )
    found = read_pictures(run)
    assert found is not None
    assert found.augmentation is None
    assert found.kernels is not None
    assert not started


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        "{",
        "[]",
        '{"split": "test"}',
        '{"misclassified": [{"image": 3}]}',
        f'{{"misclassified": [{{"image": "a.png", "predictions": [["a", {10**400}]]}}]}}',
    ],
)
def test_a_damaged_list_of_images_is_left_out(write, content: str) -> None:
    run = write()
    index_file(run).parent.mkdir()
    index_file(run).write_text(content)
    assert read_pictures(run) is None
    assert "No images were made." in text(read(write_report(run)))


@pytest.mark.slow
def test_a_hundred_classes_stay_readable_and_small(write) -> None:
    run = write(classes=tuple(f"class {i}" for i in range(100)), count=10_000)
    page = write_report(run)
    assert page.stat().st_size < 2_000_000
    said = text(read(page))
    assert "The 15 lowest recalls of 100 classes" in said
    assert "class 99" in said


@pytest.mark.slow
def test_pages_need_no_torch(write) -> None:
    run = write()
    code = (
        "import sys; from pathlib import Path; from opsin.evaluation.report.page import write_report; "
        "from opsin.runs.directory import RunDirectory; write_report(RunDirectory(Path(sys.argv[1]))); "
        "print(*{'torch', 'lightning', 'torchvision'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code, str(run.path)], text=True) == "\n"


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_and_a_desktop(write, scheme: Any) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    page_file = write_report(write(classes=tuple(f"a rather long class name {i}" for i in range(20))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for width in (360, 1280):
            context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True)
            page = context.new_page()
            said: list[str] = []
            asked: list[str] = []
            page.on("console", lambda message, said=said: said.append(message.text))
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto(page_file.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert [url for url in asked if not url.startswith("data:")] == [page_file.as_uri()]
            assert said == []
            heights = "[...document.querySelectorAll('svg text.tick')].map(t => t.getBoundingClientRect().height)"
            assert min(page.evaluate(heights)) > 8  # pixels
            paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert paper == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 28)")
        browser.close()
