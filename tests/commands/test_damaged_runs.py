"""Every command that loads a run ends in one clear error if a file of the run is damaged."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from damage import copy_of, flip_bit

import opsin
from opsin.commands.dispatch import main
from opsin.commands.explore.models import RunModels
from opsin.errors import UserError
from opsin.inference.trained_model import load_trained_model
from opsin.models import cnn_gap, load_weights
from opsin.runs.directory import RunDirectory

COMMANDS = {
    "evaluate": (),
    "predict": ("one.png",),
    "interpret": ("--what", "kernels", "--out", "out"),
    "embed": ("--out", "out"),
    "export": ("--format", "state_dict", "--out", "model.pt"),
}
"""Commands with `--checkpoint`, with their arguments after the run."""


@pytest.fixture
def run(digits_run: RunDirectory, in_tmp: Path) -> RunDirectory:
    from PIL import Image

    Image.new("L", (28, 28), 100).save("one.png")
    return RunDirectory(copy_of(digits_run.path, in_tmp / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_the_message_about_a_damaged_best_checkpoint_suggests_the_last_one(
    run: RunDirectory, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flip_bit(run.best, "/data/2", 30)
    files = set(Path.cwd().rglob("*"))
    assert main([name, "run", *COMMANDS[name]]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert "best.ckpt is damaged" in printed.err
    assert "add --checkpoint last" in printed.err
    assert set(Path.cwd().rglob("*")) == files
    assert main([name, "run", *COMMANDS[name], "--checkpoint", "last"]) == 0
    assert main([name, "run", *COMMANDS[name], "--checkpoint", str(run.last)]) == 0


def test_a_checkpoint_of_the_last_epoch_does_not_replace_the_predictions_of_the_best(run: RunDirectory) -> None:
    (run.path / "predictions" / "test.npz").unlink()
    assert main(["evaluate", "run", "--checkpoint", "last"]) == 0
    assert not (run.path / "predictions" / "test.npz").exists()


def test_python_functions_and_other_runs_name_the_damaged_checkpoint(run: RunDirectory) -> None:
    flip_bit(run.best, "/data/2", 30)
    uses: dict[str, Callable[[], object]] = {
        "in Python checkpoint='last'": lambda: opsin.load("run"),
        "set model.weights=run/checkpoints/last.ckpt": lambda: load_weights(
            cnn_gap(num_logits=10, in_channels=1, image_size=(28, 28)), "run"
        ),
        "Restore it, or resume the run": lambda: load_trained_model("run", option="model.teacher="),
        "resume the run with": lambda: RunModels(run.path.parent).open("run"),
    }
    for said, use in uses.items():
        with pytest.raises(UserError, match=r"best\.ckpt is damaged") as raised:
            use()
        assert said in str(raised.value)
    assert opsin.load("run", checkpoint="last").predict("one.png").label in "0123456789"


def test_a_network_that_is_no_run_has_no_checkpoints() -> None:
    with pytest.raises(UserError, match="efficientnet_lite0 is not a run directory"):
        load_trained_model("efficientnet_lite0", checkpoint="last")


def test_a_damaged_file_of_weights_is_refused(run: RunDirectory) -> None:
    flip_bit(run.best, "/data/2", 30)
    with pytest.raises(UserError, match=r"best\.ckpt is damaged .*replace it with an intact copy"):
        load_weights(cnn_gap(num_logits=10, in_channels=1, image_size=(28, 28)), str(run.best))


CONTENT = {
    "nothing": b"",
    "null": b"null\n",
    "a list": b"[1, 2]\n",
    "a number": b"5\n",
    "a text": b"text\n",
    "not UTF-8": b"\xff\xfe\x00{",
    "zeros": bytes(500),
    "half a file": b'{"model": {"_target_": "opsin',
    "nested": b"[" * 100_000,
}
"""Content of a damaged file of a run."""


def test_damaged_files_of_a_run_are_named_by_every_command(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = [
        *([name, "run", *arguments] for name, arguments in COMMANDS.items()),
        ["report", "run", "--page-only"],
        ["train", "resume=run", "trainer.max_epochs=2"],
    ]
    files = (run.result, run.config, run.overrides)
    cases = [(file, kind) for kind in CONTENT for file in files]
    tried = [(*case, commands[i % len(commands)]) for i, case in enumerate(cases)]
    tried += [(file, "a list", command) for file in files for command in commands]
    for file, kind, command in tried:
        good = file.read_bytes()
        file.write_bytes(CONTENT[kind])
        assert main(command) == 1, (file, kind, command)
        said = capsys.readouterr().err
        assert f"run/{file.name} is damaged (" in said
        assert "): replace it with an intact copy, or " in said
        assert said.count("\n") == 1
        file.write_bytes(good)
    run.overrides.write_bytes(b"choices: [a]\n")
    with pytest.raises(UserError, match=r"overrides\.yaml is damaged \(choices is not a dict\)"):
        opsin.load("run")


def test_damaged_metrics_and_predictions_are_named(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    from opsin.runs.metrics_csv import read_epochs
    from opsin.runs.predictions import predictions_file, read_predictions

    good = run.metrics.read_bytes()
    for content in (b"", b"\xff\xfe", b"null", b"[]\n1\n", b"a,epoch\n1\n", b"epoch,step\nx,1\n", bytes(300)):
        run.metrics.write_bytes(content)
        with pytest.raises(UserError, match=r"metrics\.csv is damaged \(.*\): restore it from a backup, or delete it"):
            read_epochs(run.metrics)
    assert main(["train", "resume=run", "trainer.max_epochs=2"]) == 1
    assert "metrics.csv is damaged" in capsys.readouterr().err
    run.metrics.write_bytes(good)
    file = predictions_file(run, "val")
    for content in (b"", b"null", bytes(100), good, _npy([1, 2]), _npz(classes=["a"]), _npz(**_other_shapes())):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"val\.npz is damaged: create them with: opsin evaluate"):
            read_predictions(run, "val")
    assert main(["report", "run", "--page-only"]) == 0  # the page says so


def _npy(values: list[int]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array(values))
    return stream.getvalue()


def _npz(**arrays: object) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **{name: np.array(value) for name, value in arrays.items()})  # type: ignore[arg-type]
    return stream.getvalue()


def _other_shapes() -> dict[str, object]:
    return {"classes": ["a", "b"], "logits": [[1.0]], "targets": [0], "positions": [0], "paths": ["x"], "images": "y"}


@pytest.mark.parametrize("counts", [{"val": [1] * 10}, {"train": [1, 2]}])
def test_counts_that_are_not_of_the_classes_are_named(run: RunDirectory, counts: dict[str, list[int]]) -> None:
    result = run.read_result()
    assert result.data is not None
    run.write_result(replace(result, data=replace(result.data, class_counts=counts)))
    with pytest.raises(UserError, match=r"result\.json is damaged \(data\.class_counts\.train is not of the classes\)"):
        load_trained_model("run")
