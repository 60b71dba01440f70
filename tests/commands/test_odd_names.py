"""One run on images with unusual names, from training to prediction, with any folder, file name and console."""

import csv
import io
import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opsin.commands import evaluate, predict
from opsin.errors import UserError
from opsin.runs.directory import RunDirectory
from opsin.runs.predictions import read_predictions
from opsin.runs.quoting import override

BEETLE, CAT, NOT_UTF8 = "K\u00e4fer", "\u732b [1]", os.fsdecode(b"k\xe4tzchen")
CLASSES = (BEETLE, r"k\xe4tzchen", CAT)


def photos(root: Path) -> Path:
    """Make a folder whose test split lacks a class, with a circular link and a video file of 6 GB."""
    random = np.random.default_rng(0)
    for split, count in (("Training", 9), ("dev", 3), ("test_set", 3)):
        form = "NFD" if split == "Training" else "NFC"
        for shade, name in enumerate((unicodedata.normalize(form, BEETLE), NOT_UTF8, CAT)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(0 if (split, name) == ("test_set", CAT) else count):
                pixels = (random.integers(0, 60, (12, 12, 3)) + 90 * shade).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{name} {number}.png")
    (root / "Training" / CAT / "circle").symlink_to("../..", target_is_directory=True)
    os.truncate(os.open(root / "Training" / CAT / "film.mp4", os.O_CREAT | os.O_WRONLY), 6 * 10**9)
    return root


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the images, and the console output and the run of a training in an ASCII console."""
    home = tmp_path_factory.mktemp("home") / "two words [x] \u00fc"
    photos(home / "my photos")
    (home / "none").mkdir()
    words = ["datamodule=image_folder", override("datamodule.path", "~/my photos"), "datamodule.image_size=20"]
    words += [
        "datamodule.batch_size=8",
        "model=cnn_gap",
        "trainer=cpu",
        "trainer.max_epochs=1",
        override("output_dir", "~/outputs"),
    ]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "HOME": str(home), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-m", "opsin", "train", *words],
        cwd=home,
        env=environment,
        capture_output=True,
        timeout=300,
        check=False,
    )
    (home / "console.txt").write_bytes(done.stdout + done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    return home


@pytest.fixture
def run(home: Path) -> RunDirectory:
    return RunDirectory((home / "outputs" / "latest").resolve())


@pytest.mark.slow
def test_a_console_without_the_characters_shows_them_escaped(home: Path, run: RunDirectory) -> None:
    console = (home / "console.txt").read_bytes().decode("ascii")
    assert "Traceback" not in console
    assert "Logging error" not in console
    assert "no report" not in console
    assert r"train is Training, val is dev, test is test_set" in console
    assert r"my photos has no test image of class '\u732b [1]'" in console
    assert console.index("has no test image") < console.index("epoch 1/1")
    summary = console[console.index("test accuracy") :]
    assert r"warning     my photos has no test image of class '\u732b [1]'" in summary
    log = next(run.path.glob("*.log")).read_text(encoding="utf-8")
    assert CAT in log


@pytest.mark.slow
def test_every_file_of_the_run_holds_the_names(run: RunDirectory) -> None:
    result = run.read_result()
    assert result.data is not None
    assert result.data.classes == CLASSES
    assert result.data.class_counts["test"] == [3, 3, 0]
    assert any(line.startswith(f"my photos has no test image of class '{CAT}'") for line in result.warnings)
    with (run.path / "per_class" / "test.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [(row["name"], row["recall"] == "") for row in table] == [(name, name == CLASSES[2]) for name in CLASSES]
    report = (run.path / "report.html").read_text(encoding="utf-8")
    assert BEETLE in report
    assert r"k\xe4tzchen" in report
    assert list((run.path / "tensorboard").glob("events*"))
    assert rf"{NOT_UTF8} 0.png".encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") in "".join(
        read_predictions(run, "test").paths
    )


@pytest.mark.slow
def test_moved_images_are_found_with_their_new_path(
    home: Path, run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    new = home / "disk" / "photos"
    new.parent.mkdir()
    (home / "my photos").rename(new)
    place = override("datamodule.path", new)
    try:
        with pytest.raises(UserError, match="does not exist"):
            evaluate.evaluate(run)
        assert evaluate.main([str(run.path), place, "--json"]) == 0
        again = json.loads(capsys.readouterr().out)["metrics"]
        assert again["test/acc"] == run.read_result().metrics["test/acc"]
    finally:
        new.rename(home / "my photos")


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
@pytest.mark.parametrize("form", [[], ["--format", "csv"], ["--format", "jsonl"]])
def test_predictions_are_printed_on_any_console(
    home: Path, run: RunDirectory, encoding: str, form: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    console = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", console)
    assert predict.main([str(run.path), str(home / "my photos" / "dev"), *form]) == 0
    console.flush()
    text = console.buffer.getvalue().decode(encoding)
    assert text.count(".png") == 9
    assert r"k\xe4tzchen" in text.replace("\\\\", "\\")
    assert (CAT if encoding == "utf-8" else r"\u732b [1]") in text.replace("\\\\", "\\")
