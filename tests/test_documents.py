"""The documents: their Python code runs, and the files they name exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
PLACES = (ROOT, ROOT / "src", ROOT / "src" / "opsin", ROOT / "docs")
WRITTEN_BY_RUNS = ("experiment/", "outputs/", "data_dir/", ".opsin/", "predictions/", "slurm/")
GONE = ("scripts/benchmark.py", "scripts/NAME.py")  # named as removed, or as a pattern


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
    named -= {name for name in named if name in GONE or name.startswith(WRITTEN_BY_RUNS)}
    assert [name for name in sorted(named) if not any((place / name).exists() for place in PLACES)] == []
