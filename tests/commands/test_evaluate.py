"""The command evaluate refuses a config that leaves nothing to evaluate."""

import pytest

from opsin.commands.evaluate import main
from opsin.runs.directory import RunDirectory


@pytest.mark.parametrize(
    ("split", "overrides"),
    [
        ("test", ["trainer.limit_test_batches=0"]),
        ("val", ["trainer.limit_val_batches=0.0", "monitor.metric=train/loss"]),
    ],
)
def test_a_split_without_batches_is_refused_in_one_message(
    split: str, overrides: list[str], digits_run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(digits_run.path), "--split", split, *overrides]) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"trainer.limit_{split}_batches=0 leaves no {split} image to evaluate: set ")
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    "override",
    [
        "optimizer.lr=3",
        "+augmentation.rotation=9",
        "trainer.max_epochs=9",
        "callbacks.early_stopping.patience=3",
        "trainer.on_oom=halve",
    ],
)
def test_a_key_of_the_training_is_refused(
    override: str, digits_run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(digits_run.path), override]) == 1
    assert capsys.readouterr().err.startswith(f"{override} has an effect on a training only, and {digits_run.path} is")
