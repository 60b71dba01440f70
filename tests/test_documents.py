"""The documents: their code runs, their commands are valid, and the files and messages that they name exist."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from document_blocks import ROOT, SOURCES, blocks, command_lines, commands, indented
from document_commands import check_flags, check_overrides, filled
from PIL import Image

from opsin.runs.directory import RunDirectory

DOCS = ROOT / "docs"
PLACES = (ROOT, ROOT / "src", ROOT / "src" / "opsin", DOCS)
GONE = ("scripts/benchmark.py", "scripts/NAME.py")  # removed files and patterns
TESTED_ELSEWHERE = ("channels.md", "design.md", "export.md", "loggers.md", "own_project.md", "python_api.md")
"""Documents with tests of their own for the code that they contain."""
FOLDERS = {path.name for place in (ROOT, ROOT / "src" / "opsin") for path in place.iterdir() if path.is_dir()}


def name_of(document: Path) -> str:
    """Return the path of a document below the project."""
    return document.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, digits_run: RunDirectory) -> Path:
    """A working directory with a finished run, a photograph and a folder of photographs."""
    place = tmp_path_factory.mktemp("documents")
    outputs = place / "outputs"
    outputs.mkdir()
    subprocess.run(["cp", "-r", digits_run.path, outputs / "run"], check=True)
    (outputs / "latest").symlink_to("run")
    random = np.random.default_rng(0)
    for number in range(24):
        file = place / "PHOTOS" / ("cat", "dog")[number % 2] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(file)
    Image.fromarray(random.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(place / "photo.jpg")
    return place


def test_there_are_documents() -> None:
    names = {path.name for path in SOURCES}
    assert names >= {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "design.md", "index.md", "sweeps.md"}
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 90


def test_code_of_the_design_document_runs(in_tmp: Path) -> None:
    for block in blocks(DOCS / "design.md", "python"):
        names: dict[str, object] = {}
        exec(block.text, names)
        assert names["logits"].shape == (64, 10)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_code_of_the_python_api_runs(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for block in blocks(DOCS / "python_api.md", "python"):
        exec(block.text, names)
    assert "absent.jpg: cannot be read" in capsys.readouterr().out
    assert names["vectors"].shape == (2, 64)
    assert names["explanation"].heatmap.shape == (28, 28)
    assert names["logits"].shape == (2, 10)
    assert len(names["comparison"].table) == 2
    assert {path.name for path in in_tmp.iterdir()} >= {"outputs", "why.png", "comparison.html"}


@pytest.mark.parametrize("document", [page for page in SOURCES if page.name != "own_project.md"], ids=name_of)
def test_files_named_in_documents_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    named = {*re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`", text), *re.findall(r"((?:scripts|tests)/[\w/.-]+\.py)", text)}
    ours = {name for name in named - set(GONE) if name.split("/")[0] in FOLDERS - {"outputs", "data"}}
    assert [name for name in sorted(ours) if not any((place / name).exists() for place in PLACES)] == []


@pytest.mark.parametrize("document", SOURCES, ids=name_of)
def test_commands_of_documents_quote_what_a_shell_changes(document: Path) -> None:
    for line in command_lines(document):  # bash refuses parentheses; zsh refuses brackets and a key after ~ too
        assert not re.search(r"=[^ ]*[(\[{]| ~[a-z]", line), line


@pytest.mark.slow
@pytest.mark.parametrize("document", SOURCES, ids=name_of)
def test_commands_of_documents_are_valid(document: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    found = [*(line for block in blocks(document, "bash") for line in commands(block.text)), *indented(document)]
    for words in [[filled(word) for word in line if not word.endswith("...")] for line in found]:
        if words[:2] == ["opsin", "train"]:
            check_overrides(words[2:])
        elif words[0] == "opsin":
            check_flags(words[1:])


@pytest.mark.slow
def test_translations_of_other_frameworks_are_valid(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    rows = re.findall(r"^\| .* \| (.*) \|$", (DOCS / "coming_from.md").read_text(encoding="utf-8"), re.MULTILINE)
    spans = [span for row in rows for span in re.findall(r"`([^`]*)`", row) if "=" in span]
    assert len(spans) > 50
    for span in spans:
        words = [filled(word) for word in commands(span)[0] if word not in ("opsin", "train")]
        check_overrides([word for word in words if not word.startswith("resume=")])


@pytest.mark.slow
def test_guides_run(folder: Path) -> None:
    """Run the commands of all guides in one process, each train command on one batch."""
    pages = [page for page in SOURCES if DOCS in page.parents and page.name not in TESTED_ELSEWHERE]
    found = [line for page in pages for block in blocks(page, "bash") if block.runs for line in commands(block.text)]
    assert len(found) > 15
    lines = [[*line, *_short(line)] for line in found if line[0] == "opsin"]
    runner = Path(__file__).parent / "helpers" / "run_commands.py"
    done = subprocess.run(
        [sys.executable, runner],
        input=json.dumps(lines),
        cwd=folder,
        env=_environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_python_of_guides_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    pages = [page for page in SOURCES if DOCS in page.parents and page.name not in TESTED_ELSEWHERE]
    found = [block for page in pages for block in blocks(page, "python") if block.runs]
    assert found
    for block in found:
        exec(block.text, {})


def _short(words: list[str]) -> list[str]:
    """Return overrides that shorten a command that trains."""
    if words[1] != "train" or "--cfg" in words or any(word.startswith("resume=") for word in words):
        return []
    debug = [] if any(word.startswith("debug=") for word in words) else ["debug=fast"]
    return [*debug, "trainer=cpu", "callbacks=no_pictures"]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_messages_of_the_error_page_are_in_the_code() -> None:
    shown = [_fixed(block.text.strip()) for block in blocks(DOCS / "errors.md", "text")]
    assert len(shown) >= 25
    templates = [template for file in (ROOT / "src").rglob("*.py") for template in _templates(file)]
    assert [text for text in shown if not any(text in template for template in templates)] == []


def _fixed(text: str) -> str:
    """Return a message with one mark for each value, without those at its ends."""
    return re.sub(r"<[^<>]*>", "\0", text).strip("\0 ")


def _templates(file: Path) -> Iterator[str]:
    """Return the texts of a module, with one mark for each value that they insert."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
