"""The documents: their Python code runs, and the files they name exist."""

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
PLACES = (ROOT, ROOT / "src", ROOT / "src" / "opsin", ROOT / "docs")
GONE = ("scripts/benchmark.py", "scripts/NAME.py")  # named as removed, or as a pattern
FOLDERS = {path.name for place in (ROOT, ROOT / "src" / "opsin") for path in place.iterdir() if path.is_dir()}


def test_there_are_documents() -> None:
    assert {path.name for path in DOCUMENTS} >= {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "design.md"}


def test_code_of_the_design_document_runs(in_tmp: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "design.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        names: dict[str, object] = {}
        exec(block, names)
        assert names["logits"].shape == (64, 10)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_code_of_the_python_api_runs(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "python_api.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 8
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    assert "absent.jpg: cannot be read" in capsys.readouterr().out
    assert names["vectors"].shape == (2, 64)
    assert names["explanation"].heatmap.shape == (28, 28)
    assert names["logits"].shape == (2, 10)
    assert len(names["comparison"].table) == 2
    assert {path.name for path in in_tmp.iterdir()} >= {"outputs", "why.png", "comparison.html"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_named_in_documents_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    named = {*re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`", text), *re.findall(r"((?:scripts|tests)/[\w/.-]+\.py)", text)}
    ours = {name for name in named - set(GONE) if name.split("/")[0] in FOLDERS - {"outputs", "data"}}
    assert [name for name in sorted(ours) if not any((place / name).exists() for place in PLACES)] == []
