"""Memory that does not suffice: one error, or a smaller batch with the same effective batch."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from opsin.commands.command_line import command
from opsin.commands.train import train
from opsin.commands.train_cli import run_config
from opsin.config import RunConfig, compose, from_saved
from opsin.errors import RestartTraining, UserError, is_out_of_memory
from opsin.runs.directory import RunDirectory
from opsin.runs.metrics_csv import read_epochs
from opsin.runs.result import RunResult
from opsin.training import build
from opsin.training.out_of_memory import memory_errors, smaller_batches
from opsin.training.plan import make_plan

WORDS = (
    "model=mlp",
    "optimizer=sgd",
    "datamodule.batch_size=64",
    "datamodule.train_fraction=0.2",  # 259 images: the last batch of an epoch has three
    "trainer.max_epochs=3",
    "callbacks=no_pictures",
    "callbacks.progress.bar=false",
    "logger=none",
    "report=false",
    "trainer=cpu",
)


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPSIN_TARGETS", "faults")

    def start(name: str, *words: str) -> RunDirectory:
        run = RunDirectory(tmp_path / "outputs" / name)
        places = (f"data_dir={tmp_path / 'data'}", f"output_dir={tmp_path / 'outputs'}")
        run_config(compose([*WORDS, *places, *words], run.path), set_up_logging=lambda _: None)
        return run

    return start


@pytest.mark.slow
def test_halved_batches_keep_the_effective_batch(start) -> None:
    whole = start("whole")
    fault = "+callbacks.fault={_target_: faults.LittleMemory, most: 20, step: 8}"
    run = start("halved", fault, "trainer.on_oom=halve", "callbacks.checkpoints.every_n_steps=3")
    result = run.read_result()
    assert (result.status, result.settings.batch_size) == ("finished", 16)
    halved = {"step": 8, "datamodule.batch_size": 32, "trainer.accumulate_grad_batches": 2}
    assert result.out_of_memory[0] == halved
    assert result.out_of_memory[1]["trainer.accumulate_grad_batches"] == 4
    tree = RunConfig.load(run).tree
    assert (tree["datamodule"]["batch_size"], tree["trainer"]["accumulate_grad_batches"]) == (16, 4)
    assert [row.step for row in read_epochs(run.metrics)] == [5, 10, 15]
    states = [torch.load(place.last, weights_only=True)["state_dict"] for place in (run, whole)]
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-4, atol=1e-6)
    assert result.metrics["val/loss"] == pytest.approx(whole.read_result().metrics["val/loss"], rel=1e-4)


@pytest.mark.slow
def test_validation_batches_are_halved_without_changing_training_batches(start) -> None:
    run = start(
        "val", "+callbacks.fault={_target_: faults.LittleMemory, most: 100, split: val}", "trainer.on_oom=halve"
    )
    tree = RunConfig.load(run).tree
    assert tree["datamodule"]["eval_batch_size"] <= 100
    assert tree["trainer"]["accumulate_grad_batches"] == 1
    assert read_epochs(run.metrics)[-1].step == 15


def test_without_halving_one_error_names_the_command_to_resume(start, tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        start("stopped", "+callbacks.fault={_target_: faults.LittleMemory, most: 20, step: 8}")
    run = RunDirectory(tmp_path / "outputs" / "stopped")
    said = str(raised.value)
    assert "\n" not in said
    assert "out of memory after step 8 with datamodule.batch_size=64 (CUDA out of memory. Tried to allocate" in said
    assert f"Resume with: opsin train resume={run.path} trainer.on_oom=halve" in said
    assert run.read_result().status == "failed"
    with pytest.raises(RestartTraining):
        train(from_saved(run, ["trainer.on_oom=halve"]))
    assert run.read_result().status == "interrupted"
    assert RunConfig.load(run).tree["datamodule"]["batch_size"] == 32


@pytest.mark.parametrize(("processes", "expected"), [(1, 50), (2, 50), (3, 48), (4, 48), (64, 64)])
def test_the_error_names_the_validation_in_which_memory_ran_out(
    digits_run: RunDirectory, processes: int, expected: int
) -> None:
    composed = from_saved(digits_run, ["datamodule.eval_batch_size=100"])
    plan = make_plan(composed)
    trainer = SimpleNamespace(callbacks=[], world_size=processes, global_step=5, validating=True)

    def run_out() -> None:
        with memory_errors(composed, plan, build.data(plan), trainer, RunResult()):
            trainer.callbacks[0].on_exception(trainer, None, MemoryError())
            raise MemoryError

    with pytest.raises(
        UserError, match=r"^out of memory in the validation after step 5 \(MemoryError\)\. Resume"
    ) as raised:
        run_out()
    assert f"datamodule.eval_batch_size={expected}; a new run" in str(raised.value)


@pytest.mark.parametrize(("size", "expected"), [(65, (13, 5)), (6, (3, 2)), (7, None), (2, None)])
def test_a_batch_is_divided_by_its_smallest_divisor(
    digits_run: RunDirectory, size: int, expected: tuple[int, int] | None
) -> None:
    plan = make_plan(from_saved(digits_run, ["trainer.limit_train_batches=10"]))
    data = build.data(plan)
    data.batch_size = size
    values = smaller_batches(plan, data, in_validation=False)
    assert (tuple(values.values())[:2] or None) == expected
    assert values.get("trainer.limit_train_batches") == (10 * expected[1] if expected else None)


@pytest.mark.parametrize(("fraction", "batches"), [(0.5, 4), (0.9, 8), (0.2, 2), (0.99, 8), (1.0, None)])
def test_a_fraction_of_the_training_batches_becomes_their_number(
    digits_run: RunDirectory, fraction: float, batches: int | None
) -> None:
    plan = make_plan(from_saved(digits_run, [f"trainer.limit_train_batches={fraction}"]))
    data = build.data(plan)
    data.setup("fit")
    data.batch_size = 52  # five batches of 259 images
    assert smaller_batches(plan, data, in_validation=False).get("trainer.limit_train_batches") == batches


@pytest.mark.parametrize(
    ("size", "limits", "expected"),
    [
        (40, {"val": 2}, {"size": 20, "val": 4}),
        (45, {"val": 0.5}, {"size": 15, "val": 6}),  # two of the five batches
        (7, {"val": 3, "test": 2}, {"size": 1, "val": 21, "test": 14}),
        (40, {"test": 0.5}, {"size": 20}),
        (1024, {"test": 1}, {"size": 128, "test": 8}),  # 256 images would still be one batch of val
        (41, {}, {"size": 20}),
        (1, {"val": 3}, {}),
    ],
)
def test_smaller_validation_batches_keep_the_images_of_limited_evaluations(
    digits_run: RunDirectory, size: int, limits: dict[str, float], expected: dict[str, int]
) -> None:
    words = [f"trainer.limit_{split}_batches={limit}" for split, limit in limits.items()]
    plan = make_plan(from_saved(digits_run, [*words, f"datamodule.eval_batch_size={size}"]))
    data = build.data(plan)
    data.setup("fit")
    keys = {
        "size": "datamodule.eval_batch_size",
        "val": "trainer.limit_val_batches",
        "test": "trainer.limit_test_batches",
    }
    values = smaller_batches(plan, data, in_validation=True)
    assert values == {keys[name]: value for name, value in expected.items()}


def test_a_limited_validation_keeps_its_batches_when_training_batches_become_smaller(digits_run: RunDirectory) -> None:
    plan = make_plan(from_saved(digits_run, ["trainer.limit_val_batches=1", "datamodule.batch_size=512"]))
    data = build.data(plan)
    assert data.eval_batch_size == 512
    assert smaller_batches(plan, data, in_validation=False)["datamodule.eval_batch_size"] == 512


@pytest.mark.slow
def test_halved_batches_of_a_limited_epoch_take_the_same_steps(start) -> None:
    limits = ("trainer.limit_train_batches=0.5", "trainer.limit_val_batches=0.5", "datamodule.eval_batch_size=50")
    fault = "+callbacks.fault={_target_: faults.LittleMemory, most: 40, step: 3}"  # within the second epoch
    whole = start("whole", *limits)
    run = start("halved", *limits, fault, "trainer.on_oom=halve", "callbacks.checkpoints.every_n_steps=1")
    assert run.read_result().out_of_memory[0]["step"] == 3
    rows, expected = read_epochs(run.metrics), read_epochs(whole.metrics)
    assert [row.step for row in rows] == [row.step for row in expected] == [2, 4, 6]
    for row, same in zip(rows, expected, strict=True):
        assert row.get("train/loss") == pytest.approx(same.get("train/loss"), rel=1e-4)
        assert row.get("val/loss") == pytest.approx(same.get("val/loss"), rel=1e-4)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:132] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("MPS backend out of memory"),
    ],
)
def test_every_command_ends_in_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    def main(arguments: list[str] | None) -> int:
        raise error

    assert is_out_of_memory(error)
    assert command(main)([]) == 1
    said = capsys.readouterr().err
    assert said.startswith("out of memory (")
    assert said.count("\n") == 1
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
