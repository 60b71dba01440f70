import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from opsin.runs.garbage_collection import RARELY, pause_collection, resume_collection

THRESHOLD = """
import gc
import lightning.pytorch as pl

class Threshold(pl.Callback):
    def on_train_start(self, *_):
        print("collector", gc.get_threshold()[0], gc.get_freeze_count() > 100_000)
"""


@pytest.fixture
def collector() -> Iterator[None]:
    yield
    resume_collection()
    gc.unfreeze()


def test_a_paused_collector_collects_rarely_until_it_is_resumed(collector: None) -> None:
    before = gc.get_threshold()
    pause_collection()
    pause_collection()
    assert gc.get_threshold() == (RARELY, *before[1:])
    resume_collection()
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() > 0


def test_a_program_that_imports_opsin_keeps_its_collector() -> None:
    before = gc.get_threshold(), gc.get_freeze_count()
    resume_collection()
    assert (gc.get_threshold(), gc.get_freeze_count()) == before


@pytest.mark.slow
@pytest.mark.parametrize("start", [["-m", "opsin", "train"], ["train.py"]])
def test_a_run_trains_with_pythons_own_threshold(start: list[str], tmp_path: Path) -> None:
    (tmp_path / "seen.py").write_text(THRESHOLD)
    done = subprocess.run(
        [sys.executable, *start, "+callbacks.seen._target_=seen.Threshold", f"output_dir={tmp_path}/o", "debug=fast"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}", "OPSIN_TARGETS": "seen"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"collector {gc.get_threshold()[0]} True" in done.stdout, done.stderr
