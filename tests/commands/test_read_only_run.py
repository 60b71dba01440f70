"""Run directories on a disk that cannot be written to, such as those of a colleague, can be used with `--out`."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from disks import mounted
from PIL import Image

from opsin.commands import dispatch
from opsin.runs.directory import RunDirectory


@pytest.fixture
def run(tmp_path: Path, digits_run: RunDirectory) -> Iterator[Path]:
    with mounted(tmp_path / "disk", megabytes=40) as disk:
        shutil.copytree(digits_run.path, disk.path / "run")
        (disk.path / "run" / "predictions" / "val.npz").unlink()
        disk.protect()
        yield disk.path / "run"


def opsin(*words: object) -> int:
    return dispatch.main([str(word) for word in words])


@pytest.mark.slow
def test_a_read_only_run_is_used_with_out(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    for words in (["report"], ["embed"], ["interpret", "--what", "kernels"], ["evaluate", "--split", "val"]):
        assert opsin(words[0], run, *words[1:]) == 1
        printed = capsys.readouterr()
        assert f"the disk {run.parent} is read-only" in printed.err, words
        assert "--out" in printed.err
        assert "Traceback" not in printed.err
        assert ("val/acc" in printed.out) == (words[0] == "evaluate")  # the numbers come before the failure
        assert opsin(words[0], run, *words[1:], "--out", out) == 0, capsys.readouterr().err
        capsys.readouterr()
    image = tmp_path / "one.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(image)
    assert opsin("predict", run, image, "--out", tmp_path / "table.csv") == 0
    files = {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()}
    assert {"report.html", "embeddings.npz", "predictions/val.npz", "pictures/pictures.json"} <= files
    assert (out / "report.html").read_text().count("data:image/") > 3


def test_a_read_only_run_is_not_resumed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(path.name for path in run.iterdir())
    assert opsin("train", f"resume={run}", "trainer.max_epochs=2") == 1
    printed = capsys.readouterr()
    assert f"resume={run}: {run} cannot be written to: the disk {run.parent} is read-only" in printed.err
    assert sorted(path.name for path in run.iterdir()) == before
