"""Scores of the classes: their files, their one reader, and their size with a thousand classes."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from opsin.errors import UserError
from opsin.runs.directory import RunDirectory
from opsin.runs.per_class import SplitScores, delete_scores, read_scores
from opsin.runs.result import DataFacts, read_result

CONFUSION = np.array([[0, 2, 0], [1, 3, 0], [0, 0, 0]])


def test_scores_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    run, names = RunDirectory(tmp_path), ("cat\r", 'a, "b"', "k\udce4")
    assert read_scores(run, "val") is None
    SplitScores.of(CONFUSION, names).write(run, "val")
    kept = read_scores(run, "val")
    assert kept is not None
    np.testing.assert_array_equal(kept.confusion, CONFUSION)
    assert [row.name for row in kept.classes] == ["cat\r", 'a, "b"', r"k\xe4"]
    assert [(row.count, row.precision, row.recall) for row in kept.classes] == [
        (2, 0, 0),
        (4, 0.6, 0.75),
        (0, None, None),
    ]
    with (tmp_path / "per_class" / "val.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [(row["name"], row["recall"]) for row in table] == [("cat\r", "0.0"), ('a, "b"', "0.75"), (r"k\xe4", "")]
    delete_scores(run, "val")
    assert read_scores(run, "val") is None


def archive(confusion: object, classes: object = ("a", "b", "c")) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, confusion=confusion, classes=np.array(classes))
    return file.getvalue()


def array() -> bytes:
    file = io.BytesIO()
    np.save(file, CONFUSION)
    return file.getvalue()


def with_damaged_stream(content: bytes) -> bytes:
    place = content.index(b"confusion.npy") + len(b"confusion.npy") + 20
    return content[:place] + b"\xff\xff\xff\xff" + content[place + 4 :]


DAMAGED = (
    *(b"", b"PK\x03\x04", b"not an archive", array(), with_damaged_stream(archive(CONFUSION))),
    *(archive(CONFUSION[:2]), archive(CONFUSION, "ab"), archive(CONFUSION + 0.5), archive(CONFUSION, [1, 2, 3])),
)


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    run = RunDirectory(tmp_path)
    SplitScores.of(CONFUSION, "abc").write(run, "test")
    (tmp_path / "per_class" / "test.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"test\.npz is damaged"):
        read_scores(run, "test")


def test_a_thousand_classes_make_small_files(tmp_path: Path) -> None:
    run, count = RunDirectory(tmp_path), 1000
    names = tuple(f"class {number:04d}" for number in range(count))
    confusion = np.random.default_rng(0).integers(0, 2, (count, count))
    counts = {split: [3] * count for split in ("train", "val", "test")}
    result = run.read_result()
    result.data = DataFacts(name="many", classes=names, class_counts=counts)
    run.write_result(result)
    for split in counts:
        SplitScores.of(confusion, names).write(run, split)
    assert read_result(run.result).data == result.data
    assert run.result.stat().st_size < 200_000
    assert sum(file.stat().st_size for file in (tmp_path / "per_class").iterdir()) < 2_000_000
