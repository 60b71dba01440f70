"""Commands import only what they use: each library in this list would delay every start by 0.1 to 2 seconds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from opsin.runs.directory import RunDirectory

PROGRAM = """
import sys
from opsin.commands import dispatch

def show(loaded):
    print("loaded:", *sorted({name for name in loaded if name in sys.modules}), flush=True)

run, image, *train = sys.argv[1:]
assert dispatch.main(["predict", run, image]) == 0
show(%(predict)s)
assert dispatch.main(["train", *train]) == 0
show(%(train)s)
"""

NEVER = [
    "adlfs",
    "captum",
    "gcsfs",
    "mlflow",
    "optuna",
    "pandas",
    "pyarrow",
    "s3fs",
    "sklearn",
    "timm",
    "trackio",
    "wandb",
]
"""Libraries that a run with default settings does not use."""

NOT_IN_PREDICTIONS = ["lightning", "matplotlib", "scipy", "tensorboard", "torch._dynamo", "torchmetrics", "torchvision"]
"""Libraries that a prediction of a network of Opsin does not use either."""


@pytest.mark.slow
def test_a_prediction_and_a_run_load_no_library_that_they_do_not_use(digits_run: RunDirectory, tmp_path: Path) -> None:
    """One process predicts, then trains."""
    Image.new("L", (8, 8)).save(tmp_path / "image.png")
    program = PROGRAM % {"predict": [*NEVER, *NOT_IN_PREDICTIONS], "train": NEVER}
    words = ["model=cnn_gap", "trainer=cpu", "trainer.max_epochs=1", "datamodule.train_fraction=0.2", "report=false"]
    words += [f"data_dir={tmp_path}", f"output_dir={tmp_path}", "callbacks.progress.bar=false"]
    done = subprocess.run(
        [sys.executable, "-c", program, str(digits_run.path), str(tmp_path / "image.png"), *words],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("loaded:")] == ["loaded:", "loaded:"]
