"""No command and no function of the API prints a notice or an advertisement of a library."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opsin.runs.directory import RunDirectory

NOTICES = (
    "Tip:",
    "litlogger",
    "litmodels",
    "GPU available",
    "TPU available",
    "HPU available",
    "LOCAL_RANK",
    "Trainer.fit",
    "Seed set",
    "Warning",
    "Please ",
    "lightning.ai",
)
CODE = """
import sys
import opsin
from opsin.commands import embed, evaluate, find_lr, interpret, predict, report, train_cli
run, image, data = sys.argv[1:]
quick = ["model=cnn_gap", "trainer=cpu", f"data_dir={data}", "output_dir=outputs"]
assert train_cli.main([*quick, "debug=limit"]) == 0
assert find_lr.main([*quick, "--steps", "20"]) == 0
arguments = {evaluate: [], report: [], predict: [image], embed: ["--split", "val"], interpret: ["--what", "gradcam"]}
for command, words in arguments.items():
    assert command.main([run, *words]) == 0, command
model = opsin.load(run)
model.predict(image), model.embed(image), model.explain(image)
opsin.train(*quick, trainer={"max_epochs": 1, "limit_train_batches": 2})
opsin.compare(["outputs"])
"""


@pytest.mark.slow
def test_nothing_but_messages_of_opsin_is_printed(digits_run: RunDirectory, in_tmp: Path) -> None:
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(in_tmp / "image.png")
    words = [sys.executable, "-c", CODE, str(digits_run.path), "image.png", str(digits_run.path.parents[1] / "data")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    printed = done.stdout + done.stderr
    assert "epoch 1/1" in printed
    assert "epoch 3/3" in printed
    assert [notice for notice in NOTICES if notice.lower() in printed.lower()] == []
