"""The documents: their Python code runs, and the files they name exist."""

import re
from pathlib import Path

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


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_named_in_documents_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    named = {*re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`", text), *re.findall(r"((?:scripts|tests)/[\w/.-]+\.py)", text)}
    ours = {name for name in named - set(GONE) if name.split("/")[0] in FOLDERS - {"outputs", "data"}}
    assert [name for name in sorted(ours) if not any((place / name).exists() for place in PLACES)] == []
