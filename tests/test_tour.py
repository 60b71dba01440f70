"""The tour notebook runs in a kernel of its own, and its output has no escape codes."""

import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "tour.ipynb"
MOST_S = 120


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Jupyter's own packages
def test_the_tour_runs_in_two_minutes(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    book = nbformat.read(NOTEBOOK, 4)
    assert not any(cell.get("outputs") for cell in book.cells)
    began = time.process_time(), time.monotonic()
    NotebookClient(book, timeout=600).execute(cwd=str(in_tmp))
    assert time.monotonic() - began[1] < MOST_S
    printed = "".join(
        output.text for cell in book.cells for output in cell.get("outputs", []) if output.output_type == "stream"
    )
    assert printed.count("epoch 8/8") == 2
    assert "epoch 5/5" in printed
    assert "random maps" in printed
    for answer in (
        "(28 - 5 + 2·0) / 1 + 1 = 24",
        "parameters: (3·3·32 + 1)·64 = 18,496",
        "(32 - 3 + 2·0) / 1 + 1 = 30",
        "shape (480, 640, 3), uint8, 921,600 values",
        "block1: parameters 49 against 27",
        "score: 0 of 5",
    ):
        assert answer in printed
    assert "\x1b" not in printed
    tables = [o.data["text/html"] for c in book.cells for o in c.get("outputs", []) if "text/html" in o.get("data", {})]
    assert any("test/acc" in table for table in tables)
