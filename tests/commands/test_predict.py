"""A folder of unusual and broken images: good ones are classified, bad ones are named, and no traceback is printed."""

import csv
import io
import itertools
import json
import os
import re
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from opsin.commands.predict import _summary, predict_files
from opsin.data.decode import FORMATS
from opsin.errors import UserError
from opsin.inference.image_arguments import find_images
from opsin.runs.directory import RunDirectory

ROOT = Path(__file__).resolve().parents[2]
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16")
NAMES = (
    "a space",
    "'single'",
    '"double"',
    "<b>tag&lt;",
    "[red]markup[bold]",
    "=1+1",
    "-dash",
    "carriage\rreturn",
    "ünï€",
    "a,b;c",
    "new\nline",
)
"""Stems of files that shells, HTML, CSV and terminals trip over."""


def noise(side: int = 24) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(256, size=(side, side, 3), dtype=np.uint8))


def every_format(folder: Path) -> set[str]:
    """One file of each format and mode that Pillow writes; the names of those that must be readable."""
    Image.init()
    readable = set()
    with warnings.catch_warnings():
        for kind, mode in itertools.product(sorted(Image.SAVE), MODES):
            name = f"{kind}-{mode.replace(';', '')}.picture"
            try:
                warnings.simplefilter("ignore")  # newer versions of Pillow do not write some of these
                image = noise().convert("L" if mode in ("I", "F", "I;16", "PA") else "RGB").convert(mode)
                image.save(folder / name, kind)
                with Image.open(folder / name) as again:
                    again.load()
            except (OSError, ValueError, KeyError, AttributeError, SystemError):
                # Pillow does not write this combination, or (TIFF in YCbCr) cannot read it.
                (folder / name).unlink(missing_ok=True)
                continue
            if kind in FORMATS and mode not in ("I", "F"):  # their range of values is unknown
                readable.add(name)
    return readable


def broken(folder: Path) -> set[str]:
    """Files that are not images, and damaged images."""
    stream = io.BytesIO()
    noise(64).save(stream, "JPEG")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "zeros.png").write_bytes(bytes(1000))
    (folder / "text.jpg").write_text("I am no image")
    (folder / "page.gif").write_text("<html><script>alert(1)</script></html>")
    (folder / "truncated.jpg").write_bytes(stream.getvalue()[:900])
    (folder / "headless.jpg").write_bytes(stream.getvalue()[200:])
    (folder / "dangling.png").symlink_to(folder / "nowhere.png")
    return {"empty.jpg", "zeros.png", "text.jpg", "page.gif", "truncated.jpg", "headless.jpg", "dangling.png"}


def predict(run: RunDirectory, *words: str, **options: object) -> int:
    return predict_files(str(run.path), list(words), **options)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_folder_of_odd_and_broken_images(
    digits_run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    readable, bad = every_format(folder), broken(folder)
    assert len(readable) > 30
    within = folder / "with" / "in"
    within.mkdir(parents=True)
    for name in NAMES:
        noise().save(within / f"{name}.png")
    (folder / "notes.txt").write_text("skipped")
    told = predict(digits_run, str(folder), top=3, out=tmp_path / "found.csv")
    with (tmp_path / "found.csv").open(newline="", encoding="utf-8") as stream:
        rows = {Path(row["path"]).relative_to(folder).as_posix(): row for row in csv.DictReader(stream)}
    assert set(rows) == {p.relative_to(folder).as_posix() for p in find_images([str(folder)])}
    assert "notes.txt" not in rows
    good = {name for name, row in rows.items() if row["class"]}
    assert len(good) == told
    assert readable <= good
    assert {f"with/in/{name}.png" for name in NAMES} <= good
    assert bad <= set(rows) - good
    for name, row in rows.items():
        if name in good:
            probabilities = [float(row[key]) for key in ("probability", "probability_2", "probability_3")]
            assert probabilities == sorted(probabilities, reverse=True)
            assert row["error"] == ""
        else:
            assert row["error"]
            assert row["probability"] == ""
    printed = capsys.readouterr()
    assert rows["empty.jpg"]["error"] == "zero bytes"
    assert printed.err.count("skipped /") == 20
    assert f"... and {len(rows) - told - 20} more images skipped\n" in printed.err
    assert f"{told} images, {len(rows) - told} bad and skipped" in printed.err
    assert "Traceback" not in printed.err + printed.out


def test_control_characters_in_names_are_escaped(
    digits_run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "within").mkdir()
    for name in (*NAMES, "\x1b[2Jclear"):
        noise().save(tmp_path / "within" / f"{name}.png")
    (tmp_path / "within" / "bad\x1b]0;title\x07.png").write_text("")
    assert predict(digits_run, str(tmp_path / "within")) == len(NAMES) + 1
    printed = capsys.readouterr()
    assert "[red]markup[bold].png" in printed.out
    assert "new\\nline.png" in printed.out
    assert "\\x1b[2Jclear.png" in printed.out
    assert "bad\\x1b]0;title\\x07.png: zero bytes" in printed.err
    assert "\x1b" not in printed.out + printed.err


def test_all_formats_have_the_same_rows(
    digits_run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise().save(tmp_path / "b.png")
    noise(40).save(tmp_path / "a.png")
    (tmp_path / "c.png").touch()
    words = [str(tmp_path / "*.png")]
    for kind in ("csv", "jsonl", "parquet"):
        assert predict(digits_run, *words, top=2, out=tmp_path / f"found.{kind}") == 2
    assert predict(digits_run, *words, top=2, out=tmp_path / "found", kind="jsonl") == 2
    lines = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    table = pq.read_table(tmp_path / "found.parquet").to_pylist()
    with (tmp_path / "found.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [Path(line["path"]).name for line in lines] == ["a.png", "b.png", "c.png"]
    for line, cells, row in zip(lines[:2], table[:2], rows[:2], strict=True):
        assert line["path"] == cells["path"] == row["path"]
        assert line["class"] == cells["class"] == row["class"] == line["top"][0]["class"]
        assert line["probability"] == cells["probability"] == float(row["probability"])
        second = (cells["class_2"], cells["probability_2"])
        assert tuple(line["top"][1].values()) == second == (row["class_2"], float(row["probability_2"]))
        assert cells["error"] is None
    assert lines[2] == {"path": str(tmp_path / "c.png"), "error": "zero bytes"}
    assert table[2]["error"] == rows[2]["error"] == "zero bytes"
    assert table[2]["class"] is None
    assert (tmp_path / "found").read_text() == (tmp_path / "found.jsonl").read_text()
    assert not list(tmp_path.glob(".*part"))
    capsys.readouterr()
    predict(digits_run, *words, top=2, kind="csv")
    assert capsys.readouterr().out == (tmp_path / "found.csv").read_text()


def test_top_is_limited_to_the_number_of_classes(digits_run: RunDirectory, tmp_path: Path) -> None:
    noise().save(tmp_path / "a.png")
    predict(digits_run, str(tmp_path / "a.png"), top=99, out=tmp_path / "found.jsonl")
    told = json.loads((tmp_path / "found.jsonl").read_text())["top"]
    assert sorted(found["class"] for found in told) == list("0123456789")
    predict(digits_run, str(tmp_path / "a.png"), top=99, out=tmp_path / "found.csv")
    assert (tmp_path / "found.csv").read_text().splitlines()[0].endswith("class_10,probability_10,error")
    assert sum(found["probability"] for found in told) == pytest.approx(1)


def test_long_tables_are_shortened(
    digits_run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(25):
        noise().save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.jpg").touch()
    predict(digits_run, str(tmp_path))
    printed = capsys.readouterr()
    assert printed.out.count(".png") == 20
    assert "... and 5 more: use --out FILE.csv to write all" in printed.out
    assert printed.err.count(".jpg: zero bytes\n") == 20
    assert "... and 5 more images skipped: use --out FILE.csv to write all" in printed.err


def test_files_are_found_once_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("b/2.png", "b/1.png", "b/.hidden.png", "a.png", "[x].png", "x.png", "b/c/3.jpg", "b/notes.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    assert [str(p) for p in find_images(["b", "a.png", "b/1.png"])] == ["b/1.png", "b/2.png", "b/c/3.jpg", "a.png"]
    assert [str(p) for p in find_images(["[x].png"])] == ["[x].png"]
    assert [str(p) for p in find_images(["**/*.png"])] == ["[x].png", "a.png", "b/1.png", "b/2.png", "x.png"]
    assert [str(p) for p in find_images([str(tmp_path / "b" / "*")])][-2:] == [
        str(tmp_path / n) for n in ("b/c/3.jpg", "b/notes.txt")
    ]
    assert find_images(["b/notes.txt"]) == [Path("b/notes.txt")]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("void", r"^void contains no images: name a folder with image files"),
        ("photos/void", r"^photos/void contains no images: name a folder with image files"),
        ("no.png", r"^no file or folder matches no\.png: relative paths begin in .*{here}\. Name image files, folders"),
        ("sub/no.png", r"^no file or folder matches sub/no\.png: relative paths begin in .*{here}\. Name image files"),
        ("photos/no.png", r"^no file or folder matches photos/no\.png: relative paths begin in .*{here}\. Name image"),
        ("photos/viod", r"^no file or folder matches photos/viod: did you mean photos/void\?$"),
        ("photos/*.gif", r"^no file or folder matches photos/\*\.gif: relative paths begin in .*{here}\. Name image"),
        ("photos/v*", r"^the folders that match photos/v\* contain no images: name folders"),
    ],
)
def test_a_path_without_images_is_named_as_typed_with_a_way_out(word: str, message: str, in_tmp: Path) -> None:
    for folder in ("void", "photos/void"):
        Path(folder).mkdir(parents=True)
    with pytest.raises(UserError, match=message.replace("{here}", re.escape(str(in_tmp)))):
        find_images([word])


def test_invalid_arguments_are_errors(digits_run: RunDirectory, tmp_path: Path) -> None:
    noise().save(tmp_path / "a.png")
    words = [str(tmp_path / "a.png")]
    with pytest.raises(UserError, match="--top must be at least 1, got 0"):
        predict(digits_run, *words, top=0)
    with pytest.raises(UserError, match="is not one of csv, jsonl, parquet; add --format"):
        predict(digits_run, *words, out=tmp_path / "found.txt")
    with pytest.raises(UserError, match=r"--out .*found\.csv and --format parquet contradict each other"):
        predict(digits_run, *words, out=tmp_path / "found.csv", kind="parquet")
    with pytest.raises(UserError, match=r"--out=.*a\.png is a file, not a folder; set --out to a path in a folder"):
        predict(digits_run, *words, out=tmp_path / "a.png" / "found.csv")
    with pytest.raises(UserError, match="cannot go to stdout"):
        predict(digits_run, *words, kind="parquet")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_missing_folder_of_the_output_file_is_created(digits_run: RunDirectory, tmp_path: Path, suffix: str) -> None:
    noise().save(tmp_path / "a.png")
    out = tmp_path / "new" / "folder" / f"found.{suffix}"
    predict(digits_run, str(tmp_path / "a.png"), out=out)
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    assert out.stat().st_size > 0


def test_a_failure_leaves_the_old_file(
    digits_run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise().save(tmp_path / "a.png")
    (tmp_path / "found.csv").write_text("old")

    def fail(*_: object) -> None:
        raise RuntimeError("power cut")

    monkeypatch.setattr("opsin.inference.prediction_writers.ranked", fail)
    with pytest.raises(RuntimeError, match="power cut"):
        predict(digits_run, str(tmp_path / "a.png"), out=tmp_path / "found.csv")
    assert (tmp_path / "found.csv").read_text() == "old"
    assert not list(tmp_path.glob(".*part"))


@pytest.mark.parametrize(("word", "code", "says"), [("good", 0, "2 images"), ("bad", 1, "0 images, 1 bad and skipped")])
@pytest.mark.slow
def test_the_script(digits_run: RunDirectory, tmp_path: Path, word: str, code: int, says: str) -> None:
    for name in ("good/a b.png", "good/<i>.png", "bad/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        noise().save(tmp_path / name)
    (tmp_path / "bad" / "x.png").write_bytes(b"x")
    (tmp_path / "good" / os.fsdecode(b"\xff.jpg")).symlink_to(tmp_path / "bad" / "x.png")
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "predict.py"), str(digits_run.path), word, "--top", "2"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 2
    if word == "good":
        assert "skipped good/\\xff.jpg: not an image" in done.stderr
        assert "good/<i>.png" in done.stdout
    else:
        assert done.stdout == ""


def test_a_folder_as_output_file_is_an_error(digits_run: RunDirectory, tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    folder = tmp_path / "answers"
    folder.mkdir()
    with pytest.raises(UserError, match=r"answers is a folder; give a file, such as .*predictions\.csv"):
        predict_files(str(digits_run.path), [str(tmp_path / "a.png")], out=folder, kind="csv")
    assert list(folder.iterdir()) == []


def test_the_summary_has_no_rate_of_zero() -> None:
    assert _summary(Counter(cat=1), 0, 2.0, None) == "1 image; cat: 1"
    assert _summary(Counter(cat=3), 1, 20.0, None) == "3 images, 1 bad and skipped; cat: 3"
    assert _summary(Counter(cat=3), 1, 2.0, None) == "3 images, 1 bad and skipped; cat: 3; 2 images/s"
