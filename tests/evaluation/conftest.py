"""A run directory written without training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from opsin.runs.directory import RunDirectory
from opsin.runs.predictions import Predictions
from opsin.runs.result import NetworkSummary, RunResult, StageSummary, Status

Write = Callable[..., RunDirectory]

METRICS = """epoch,step,lr,train/acc,train/loss,val/acc,val/loss
1,10,0.1,0.6,0.9,0.7,0.8
2,20,0.05,0.8,0.5,0.85,0.4
3,30,0.0,0.9,0.3,0.8,nan
"""
NETWORK = NetworkSummary("tiny", (1, 8, 8), (StageSummary("low", (4, 8, 8), 40, 40, 2560, 3),))


def predicted(split: str, classes: tuple[str, ...], count: int, seed: int = 0) -> Predictions:
    """Return predictions that are correct for about four of five images."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, len(classes), count)
    predicted_classes = np.where(rng.random(count) < 0.8, targets, rng.integers(0, len(classes), count))
    logits = rng.normal(size=(count, len(classes)))
    logits[np.arange(count), predicted_classes] += 4
    paths = tuple(f"/photos/{classes[target]}/{i:04}.jpg" for i, target in enumerate(targets))
    return Predictions(split, classes, logits.astype(np.float32), targets, np.arange(count), paths, "same")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a run with a status, classes and further values of its result."""

    def write(
        status: Status = "finished", classes: tuple[str, ...] = ("cat", "dog"), count: int = 400, **result: Any
    ) -> RunDirectory:
        run = RunDirectory(tmp_path / "run")
        run.path.mkdir()
        config = {"monitor": {"metric": "val/loss"}, "seed": 1}
        run.config.write_text(yaml.safe_dump(config))
        run.overrides.write_text(yaml.safe_dump({"overrides": ["model=tiny"]}))
        run.metrics.write_text(METRICS)
        run.write_result(RunResult(status=status, **{"choices": {"model": "tiny"}, "network": NETWORK, **result}))
        if count:
            for split in ("val", "test"):
                predicted(split, classes, count, seed=len(split)).write(run)
        return run

    return write
