"""Random overrides, image bytes, checkpoints and run directories: a correct answer or one clear error.

The fast tests run a few examples, always the same. `make fuzz MINUTES=10` runs new ones for ten minutes in all.
"""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corpus.case import Case, fault_of
from corpus.image_formats import written_formats
from corpus.odd_runs import ANY_FILE
from opsin.config import compose, from_saved
from opsin.data.decode import FORMATS, decode_image
from opsin.evaluation.report.page import write_report
from opsin.inference.opened_run import open_run
from opsin.models.weights import read_state_dict
from opsin.runs.directory import RunDirectory
from opsin.training.plan import make_plan
from opsin.training.resume_check import check_resume

MINUTES = float(os.environ.get("OPSIN_FUZZ_MINUTES", "0"))
"""Duration of all fuzzers together; 0 runs a few examples, always the same."""

IMAGES = written_formats()
"""An intact image in each format."""

FUZZERS = 5
"""Number of fuzzers, which share the duration."""

profile = settings(
    derandomize=not MINUTES,
    max_examples=10**6 if MINUTES else 10,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

_GROUPS = (
    "seed data_dir tags model model.weights model.trainable model.phases model._target_ optimizer optimizer.lr",
    "trainer.max_epochs trainer.devices trainer.precision datamodule datamodule.image_size datamodule.mean",
    "callbacks callbacks.early_stopping.patience loss.class_weights monitor.metric hydra.run.dir resume experiment",
    "feature_cache augmentation.rotation distillation.temperature scheduler logger debug nowhere a.b.c",
)
KEYS = st.sampled_from([key for group in _GROUPS for key in group.split()])
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=6
)
OVERRIDE = st.builds(
    lambda prefix, key, value: f"{prefix}{key}={value}",
    st.sampled_from(["", "", "", "+", "++", "~"]),
    KEYS | TEXT,
    st.text("[]{}()'\"\\$,:=+~ \t-.0123456789abcnulltrue@/*%\u00e4", max_size=15)
    | VALUES.map(json.dumps)
    | VALUES.map(str),
)
EDITS = st.lists(
    st.tuples(
        st.floats(0, 1), st.sampled_from(["set", "insert", "delete", "repeat"]), st.binary(min_size=1, max_size=9)
    ),
    min_size=1,
    max_size=6,
)


class Budget:
    """Time that a fuzzer has; then it ends as skipped, because it found no fault."""

    def __init__(self) -> None:
        self._end = time.monotonic() + 60 * MINUTES / FUZZERS

    def check(self) -> None:
        """End the fuzzer if the time is over; Hypothesis would draw all examples that are left."""
        if MINUTES > 0 and time.monotonic() > self._end:
            pytest.skip(f"no fault in {MINUTES / FUZZERS:g} minutes")


@pytest.fixture
def budget() -> Budget:
    return Budget()


def edited(content: bytes, edits: list[tuple[float, str, bytes]]) -> bytes:
    """Return bytes after some edits, each at a share of the length."""
    for share, kind, piece in edits:
        at = int(share * len(content))
        if kind == "set":
            content = content[:at] + piece + content[at + len(piece) :]
        elif kind == "insert":
            content = content[:at] + piece + content[at:]
        elif kind == "delete":
            content = content[:at] + content[at + len(piece) ** 3 :]
        else:
            content = content[: at + 50] + content[at:]
    return content


def check(name: str, act: Any, folder: Path) -> None:
    """Fail if an action does not end in an answer or in one clear error."""
    assert (fault := fault_of(Case(name, act), folder)) is None, fault


@pytest.mark.slow
@profile
@given(st.lists(OVERRIDE, max_size=3))
def test_overrides(tmp_path: Path, budget: Budget, overrides: list[str]) -> None:
    budget.check()
    check("overrides", lambda _: make_plan(compose(overrides)), tmp_path)


@profile
@given(st.sampled_from(FORMATS), EDITS, st.sampled_from([1, 3, 4]))
def test_image_bytes(tmp_path: Path, budget: Budget, kind: str, edits: Any, channels: int) -> None:
    budget.check()

    def act(_: Path) -> None:
        pixels = decode_image(edited(IMAGES[kind], edits), channels)
        assert pixels.dtype == np.uint8
        assert pixels.shape[2:] == (channels,)

    check(f"image of {kind}", act, tmp_path)


@profile
@given(st.sampled_from(["config.yaml", "overrides.yaml", "result.json", "metrics.csv", "predictions/test.npz"]), EDITS)
def test_bytes_of_run_files(digits_run: RunDirectory, tmp_path: Path, budget: Budget, file: str, edits: Any) -> None:
    budget.check()
    content = edited((digits_run.path / file).read_bytes(), edits)
    check(file, lambda folder: _use(_changed(digits_run, folder, file, content)), tmp_path)


@pytest.mark.slow
@profile
@given(st.sampled_from(["config.yaml", "overrides.yaml", "result.json"]), st.floats(0, 1), VALUES)
def test_values_of_run_files(
    digits_run: RunDirectory, tmp_path: Path, budget: Budget, file: str, share: float, value: Any
) -> None:
    """A file that is valid YAML or JSON, but holds one other value at a random place."""
    budget.check()
    tree = yaml.safe_load((digits_run.path / file).read_text())
    places = list(_places(tree))
    node, key = places[int(share * (len(places) - 1))]
    node[key] = value
    content = (json.dumps(tree) if file.endswith("json") else yaml.safe_dump(tree)).encode(errors="replace")
    check(f"{file}: {key}={value!r}", lambda folder: _use(_changed(digits_run, folder, file, content)), tmp_path)


@profile
@given(EDITS | st.sampled_from(sorted(ANY_FILE)))
def test_checkpoints(digits_run: RunDirectory, tmp_path: Path, budget: Budget, damage: Any) -> None:
    """A damaged checkpoint is refused, or holds the tensors of the intact one."""
    budget.check()
    intact = read_state_dict(digits_run.best)

    def act(folder: Path) -> None:
        file = folder / "best.ckpt"
        shutil.copy(digits_run.best, file)
        if isinstance(damage, str):
            ANY_FILE[damage](file)
        else:
            file.write_bytes(edited(file.read_bytes(), damage))
        try:
            state = read_state_dict(file)
            assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())
            assert state.keys() <= intact.keys() or file.read_bytes() != digits_run.best.read_bytes()
        finally:
            if file.is_symlink() or file.exists():
                file.rmdir() if file.is_dir() and not file.is_symlink() else file.unlink()

    check(f"checkpoint {damage!r}", act, tmp_path)


def _changed(run: RunDirectory, folder: Path, file: str, content: bytes) -> RunDirectory:
    """Return a copy of a run, which links to its checkpoints, with another content of one file."""
    copy = RunDirectory(folder / "run")
    shutil.rmtree(copy.path, ignore_errors=True)
    shutil.copytree(run.path, copy.path, copy_function=os.link)
    (copy.path / file).unlink()
    (copy.path / file).write_bytes(content)
    return copy


def _use(run: RunDirectory) -> None:
    """Open a run, prepare a resume and write its report."""
    write_report(RunDirectory.of(run.path))
    open_run(run)
    check_resume(from_saved(run))


def _places(tree: Any) -> Any:
    """Yield every container with each of its keys."""
    for key, value in list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)):
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)
