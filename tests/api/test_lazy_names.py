"""The names of `opsin`: imported at their first use, visible to people and type checkers."""

import subprocess
import sys
from pathlib import Path

import pytest
from mypy import api as mypy

import opsin

SNIPPET = """
from collections.abc import Iterator
from pathlib import Path
import numpy as np
import opsin
model = opsin.load(Path("run"))
reveal_type(model.predict("photo.jpg"))
reveal_type(model.predict(["a.jpg", Path("b.jpg")]))
reveal_type(model.predict(path for path in Path("photos").glob("*.jpg")))
reveal_type(model.predict(np.zeros((28, 28))))
reveal_type(model.embed("a.jpg"))
reveal_type(model.explain("a.jpg").overlay)
reveal_type(opsin.train("model=cnn_gap", datamodule={"batch_size": 64}))
reveal_type(opsin.compare(["a", model, opsin.train()]))
model.predict(3)
opsin.lode("run")
"""
REVEALED = (
    "ClassPrediction",
    "list[opsin.api.results.ClassPrediction]",
    "Iterator[opsin.api.results.ClassPrediction]",
    "ClassPrediction",
    "numpy.floating",
    "Image",
    "TrainedRun",
    "RunComparison",
)


def test_names_are_listed_and_unknown_ones_refused() -> None:
    assert set(opsin.__all__) == {"UserError", "__version__", "compare", "load", "train"}
    assert set(opsin.__all__) <= set(dir(opsin))
    for name in opsin.__all__:
        assert getattr(opsin, name) is not None
    for name in ("lode", "_private"):
        with pytest.raises(AttributeError, match=name):
            getattr(opsin, name)


def test_star_import_gives_the_names() -> None:
    names: dict[str, object] = {}
    exec("from opsin import *", names)
    assert names["load"] is opsin.load
    assert names["UserError"] is opsin.UserError


@pytest.mark.slow
def test_type_checkers_see_every_name(tmp_path: Path) -> None:
    (tmp_path / "snippet.py").write_text(SNIPPET)
    root = Path(__file__).resolve().parents[2]
    options = ["--config-file", str(root / "pyproject.toml"), "--cache-dir", str(root / ".mypy_cache")]
    found, errors, _ = mypy.run([*options, str(tmp_path / "snippet.py")])
    assert not errors
    notes = [line for line in found.splitlines() if "Revealed type" in line]
    assert len(notes) == len(REVEALED), found
    for note, kind in zip(notes, REVEALED, strict=True):
        assert kind in note
    mistakes = [line for line in found.splitlines() if "error:" in line]
    assert len(mistakes) == 2, found
    assert "predict" in mistakes[0]
    assert 'Module has no attribute "lode"' in mistakes[1]


def test_version_without_torch() -> None:
    code = "import opsin, sys; opsin.__version__, opsin.UserError, dir(opsin); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
