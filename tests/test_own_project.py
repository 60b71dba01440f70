"""`docs/own_project.md`: its files are written into a new project, and all of its commands run there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from document_blocks import ROOT, blocks, commands
from PIL import Image

from opsin.commands.new import TEMPLATE, write_project

PAGE = ROOT / "docs" / "own_project.md"
QUICK = (
    "trainer.max_epochs=1",
    "callbacks=no_pictures",
    "logger=none",
    "report=false",
    "datamodule.train_fraction=0.3",
)

RUNNER = """
import json, os, sys
from opsin.commands.dispatch import main
for words in json.load(sys.stdin):
    print("$", *words, flush=True)
    if code := main(words):
        sys.exit(code)
"""


@pytest.fixture
def project(in_tmp: Path) -> Path:
    """A new project with the files of the page, and the images that the page mentions."""
    folder = in_tmp / "my_project"
    write_project(folder)
    written = [block for language in ("python", "yaml") for block in blocks(PAGE, language)]
    for block in written:
        name = re.match(r"# (\S+)\n", block.text)
        assert name
        assert not (folder / name[1]).exists()
        (folder / name[1]).write_text(block.text)
    assert len(written) == 7
    (folder / "photos").mkdir()
    rng = np.random.default_rng(0)
    for number in range(60):
        pixels = rng.integers(0, 255, (15, 15), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{('cat', 'dog')[number % 2]}_{number:03}.png")
        photo = in_tmp / "PHOTOS" / ("cat", "dog")[number % 2] / f"{number}.png"
        photo.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(photo)
    Image.fromarray(pixels).save(folder / "FILE", format="PNG")
    return folder


def test_the_settings_and_the_size_are_those_of_the_template() -> None:
    settings = [re.sub(r" *#.*", "", line) for line in blocks(PAGE, "toml")[0].text.splitlines()]
    assert [line for line in settings if line not in (TEMPLATE / "pyproject.toml.template").read_text()] == []
    lines = sum(len(file.read_text().splitlines()) for file in TEMPLATE.rglob("*.template"))
    assert f"a project of {lines} lines" in PAGE.read_text()


@pytest.mark.slow
def test_the_commands_of_the_page_run(project: Path) -> None:
    """All commands run in one process, so torch is imported once; each train command runs one epoch."""
    lines = [line[1:] for block in blocks(PAGE, "sh") for line in commands(block.text) if line[0] == "opsin"]
    lines = [[*line, *QUICK] if line[0] == "train" else line for line in lines]
    assert len(lines) == 11
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", RUNNER],
        input=json.dumps(lines),
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    results = [json.loads(file.read_text()) for file in (project / "outputs").rglob("result.json")]
    assert [result["status"] for result in results] == ["finished"] * 9
    frozen = [tuple(result["frozen"]["stages"]) for result in results if result["frozen"]]
    assert ("conv1",) in frozen
    assert any("val/weight_norm" in result["metrics"] for result in results)
