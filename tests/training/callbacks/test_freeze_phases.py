"""Unfreezing over time and the freeze contract, in runs from end to end on the bundled digits."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from interruptions import StopAt
from observers import ChangeInValidation, ChangeTensor, Watch
from tiny import tiny
from torch import nn
from torch.optim import lr_scheduler

from opsin.commands.train import train
from opsin.config import compose, from_saved
from opsin.errors import Interrupted, UserError
from opsin.runs.directory import RunDirectory
from opsin.runs.result import FrozenStages, ParameterCounts, PhaseCounts
from opsin.training import optim
from opsin.training.callbacks.freeze_phases import scale_rates

ROOT = Path(__file__).resolve().parents[3]
TINY = (
    f"model._target_={tiny.__module__}.tiny",
    "datamodule.image_size=8",
    "datamodule.batch_size=64",
    "datamodule.train_fraction=0.2",  # 259 images: five batches
    "trainer.max_epochs=4",
    "trainer.accelerator=cpu",
    "callbacks.progress.bar=false",
)
TWO_PHASES = (*TINY, "model.trainable=head", "model.phases=[{epoch: 2, trainable: [high], lr_factor: 0.1}]")
STATISTICS = "stages.low.norm.running_mean"


@pytest.fixture(autouse=True)
def _targets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPSIN_TARGETS", "interruptions,observers,tiny")


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def start(data_dir: Path, tmp_path: Path):
    def start(*words: str, name: str = "run") -> RunDirectory:
        run = RunDirectory(tmp_path / "outputs" / name)
        run.path.mkdir(parents=True)
        watch = f"+callbacks.watch={{_target_: observers.{Watch.__name__}, folder: {run.path / 'watch'}}}"
        words = (f"data_dir={data_dir}", f"output_dir={run.path.parent}", watch, *words)
        train(compose(words, run.path))
        return run

    return start


def meddle(step: int, tensor: str = STATISTICS) -> str:
    return f"+callbacks.meddle={{_target_: observers.{ChangeTensor.__name__}, step: {step}, tensor: {tensor}}}"


def stop(step: int) -> str:
    return f"+callbacks.stop={{_target_: interruptions.{StopAt.__name__}, step: {step}}}"


def watched(run: RunDirectory, rank: int = 0) -> Any:
    return torch.load(run.path / "watch" / f"{rank}.pt", weights_only=False)


def stages_with_gradients(step: dict[str, Any]) -> set[str]:
    return {name.split(".")[1] for name in step["gradients"] if name.startswith("stages.")}


def test_each_phase_trains_its_stages_at_their_rates(start) -> None:
    run = start(*TWO_PHASES, "scheduler=constant", "optimizer.weight_decay=0.1")
    steps = watched(run)["steps"]
    assert len(steps) == 20
    for step in steps:
        trained = {"high"} if step["epoch"] >= 2 else set()
        assert stages_with_gradients(step) == step["training"] == trained
        assert list(step["rates"]) == ["backbone/decay", "backbone/no_decay", "head/decay", "head/no_decay"]
        assert set(step["rates"].values()) == {0.002 * 0.1 if step["epoch"] >= 2 else 0.002}
    result = run.read_result()
    total = result.parameters.total
    high, head = 6 * 8 * 9 + 2 * 8, 8 * 10 + 10
    phases = (
        PhaseCounts(0, (), 1.0, trainable=head, frozen=total - head),
        PhaseCounts(2, ("high",), 0.1, trainable=head + high, frozen=total - head - high),
    )
    assert result.parameters == ParameterCounts(total, head, total - head, phases)
    assert result.frozen == FrozenStages(("low", "middle"), True)


@pytest.mark.slow
def test_gradual_unfreezing_with_a_rate_for_each_stage(start) -> None:
    words = ("model.unfreeze_every=1", "model.layer_decay=0.5", "model.backbone_lr_factor=0.1", "optimizer.lr=1")
    run = start(*TINY, *words, "scheduler=constant", "optimizer=sgd")
    steps = watched(run)["steps"]
    for step in steps:
        assert stages_with_gradients(step) == set(("high", "middle", "low")[: step["epoch"]])
    rates = {"low": 0.0125, "middle": 0.025, "high": 0.05, "head": 1.0}
    assert steps[0]["rates"] == pytest.approx({f"{part}/no_decay": rate for part, rate in rates.items()})
    assert run.read_result().frozen == FrozenStages((), True)


def test_a_run_that_ends_in_its_first_phase_is_verified_for_that_phase(start, caplog) -> None:
    stopping = ("callbacks.early_stopping.patience=1", "callbacks.early_stopping.min_delta=100")
    run = start(*TWO_PHASES, *stopping, "trainer.max_epochs=3")
    assert run.read_result().frozen == FrozenStages(("low", "middle", "high"), True)
    assert "training ended before the phase after epoch 2 began" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "words"),
    [
        (3, ["scheduler=onecycle"]),  # in the first phase
        (10, ["scheduler=plateau", "scheduler.patience=0"]),  # at its end
        (11, ["scheduler=step", "scheduler.every_epochs=1"]),  # in the first step of the second
        (13, ["scheduler=plateau", "scheduler.patience=0", "scheduler.warmup_epochs=2.5"]),
        (13, ["scheduler=onecycle", "callbacks=ema", "callbacks.ema.decay=0.9"]),
        (17, ["scheduler=constant", "optimizer=sgd", "optimizer.momentum=0.9"]),
    ],
)
def test_a_run_resumed_in_any_phase_is_bit_identical(start, step: int, words: list[str]) -> None:
    whole = start(*TWO_PHASES, *words, name="whole")
    with pytest.raises(Interrupted):
        start(*TWO_PHASES, *words, stop(step), name="cut")
    cut = RunDirectory(whole.path.parent / "cut")
    train(from_saved(cut, ["callbacks.stop=null"]))
    assert cut.read_result().metrics == whole.read_result().metrics
    assert cut.read_result().frozen == FrozenStages(("low", "middle"), True)
    assert cut.metrics.read_text() == whole.metrics.read_text()
    one, other = (torch.load(run.last, weights_only=True) for run in (whole, cut))
    for key in ("state_dict", "optimizer_states", "lr_schedulers"):
        same(one[key], other[key], key)


def same(one: Any, other: Any, place: str) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), place
    elif isinstance(one, (dict, list, tuple)):
        assert len(one) == len(other), place
        for key in one if isinstance(one, dict) else range(len(one)):
            same(one[key], other[key], f"{place}.{key}")
    else:
        assert one == other, place


@pytest.mark.slow
def test_a_run_killed_in_a_phase_repeats_its_epoch(start, tmp_path: Path) -> None:
    whole = start(*TWO_PHASES, name="whole")
    with pytest.raises(RuntimeError):
        start(*TWO_PHASES, stop(18)[:-1] + ", how: error}", name="cut")
    cut = RunDirectory(tmp_path / "outputs" / "cut")
    train(from_saved(cut, ["callbacks.stop=null"]))
    assert cut.read_result().metrics == whole.read_result().metrics


@pytest.mark.parametrize("tensor", [STATISTICS, "stages.low.norm.num_batches_tracked", "stages.middle.conv.weight"])
def test_a_changed_frozen_tensor_fails_the_run(start, tmp_path: Path, tensor: str) -> None:
    with pytest.raises(UserError, match=rf"have changed since they were frozen: {tensor}\."):
        start(*TWO_PHASES, meddle(18, tensor))
    result = RunDirectory(tmp_path / "outputs" / "run").read_result()
    assert result.status == "failed"
    assert tensor in result.error
    assert "test/acc" not in result.metrics


def test_a_stage_is_verified_when_it_is_unfrozen(start, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"have changed since they were frozen: stages\.high\.norm\.running_var\."):
        start(*TWO_PHASES, meddle(3, "stages.high.norm.running_var"))
    state = torch.load(RunDirectory(tmp_path / "outputs" / "run").last, weights_only=True)
    assert state["epoch"] == 1  # no epoch of the second phase was begun


@pytest.mark.slow
def test_a_resumed_run_is_verified_from_its_first_step(start, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        start(*TWO_PHASES, meddle(3), stop(8))
    with pytest.raises(UserError, match=STATISTICS):
        train(from_saved(RunDirectory(tmp_path / "outputs" / "run"), ["callbacks.stop=null", "callbacks.meddle=null"]))


@pytest.mark.slow
def test_tensors_of_trained_stages_may_change(start) -> None:
    run = start(*TWO_PHASES, meddle(18, "stages.high.norm.running_mean"))
    assert run.read_result().frozen.verified


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [["optimizer=sgd", "optimizer.momentum=0.9"], ["optimizer=adam"], ["optimizer=adamw"]]
)
def test_a_stage_frozen_again_is_not_changed_by_momentum_and_weight_decay(start, words: list[str]) -> None:
    run = start(*TINY, "model.phases=[{epoch: 1, trainable: [middle]}]", "optimizer.weight_decay=0.1", *words)
    steps = watched(run)["steps"]
    assert [stages_with_gradients(step) for step in steps[4:6]] == [{"low", "middle", "high"}, {"middle"}]
    result = run.read_result()  # the contract holds from the moment of freezing, or the run would have failed
    assert (result.status, result.frozen.stages) == ("finished", ())
    held = torch.load(run.last, weights_only=True)["callbacks"]["FreezingCallback"]["digests"]
    assert {name.split(".")[1] for name in held} == {"low", "high"}


@pytest.mark.slow
def test_a_moving_average_does_not_change_frozen_stages(start) -> None:
    words = (*TWO_PHASES, "callbacks=ema", "callbacks.ema.decay=0.9")
    run = start(*words)
    assert run.read_result().frozen == FrozenStages(("low", "middle"), True)
    with pytest.raises(UserError, match="have changed since they were frozen"):  # rounding differs
        start(*words, "callbacks.ema._target_=lightning.pytorch.callbacks.EMAWeightAveraging", name="lightning")


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        "mini_resnet",
        *(
            pytest.param(model, marks=pytest.mark.slow)
            for model in (
                "resnet18_feature_extract",
                "resnet50_feature_extract",
                "mobilenet_v2_feature_extract",
                "efficientnet_b0_feature_extract",
                "efficientnet_lite0_feature_extract",
                "vgg16_partial",
            )
        ),
    ],
)
def test_large_networks_keep_the_freeze_contract(start, model: str) -> None:
    words = (f"model={model}", "model.weights=none", "model.unfreeze_every=1", "datamodule.image_size=32")
    limits = ("datamodule.batch_size=16", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1")
    run = start(*TINY[3:], *words, *limits, "trainer.max_epochs=3", "trainer.limit_test_batches=1")
    frozen = run.read_result().frozen
    assert frozen.verified
    assert frozen.stages[0] == ("block1" if "vgg" in model else "stem")
    assert len(run.read_result().parameters.phases) > 3


SCHEDULES = {
    "constant": (optim.constant, {"warmup_epochs": 0.5}),
    "step": (optim.step, {"every_epochs": 2}),
    "cosine": (optim.cosine, {"total_steps": 20, "warmup_epochs": 1.0}),
    "onecycle": (optim.onecycle, {"total_steps": 20}),
    "plateau": (optim.plateau, {"monitor": "val/loss", "patience": 0, "warmup_epochs": 3.0}),
    "CyclicLR": (lr_scheduler.CyclicLR, {"base_lr": [0.01, 0.02], "max_lr": [0.1, 0.3], "step_size_up": 3}),
    "CosineAnnealingLR": (lr_scheduler.CosineAnnealingLR, {"T_max": 20, "eta_min": 0.01}),
    "CosineAnnealingWarmRestarts": (lr_scheduler.CosineAnnealingWarmRestarts, {"T_0": 5, "eta_min": 0.01}),
    "MultiStepLR": (lr_scheduler.MultiStepLR, {"milestones": [3, 9]}),
    "PolynomialLR": (lr_scheduler.PolynomialLR, {"total_iters": 30}),
}


def rates(name: str, factors: dict[int, float]) -> list[tuple[float, ...]]:
    """The rates of 20 steps, with factors that begin at some of them, through checkpoints at every step."""
    schedule, options = SCHEDULES[name]
    of_torch = isinstance(schedule, type)
    if name != "onecycle" and not of_torch:
        options = {**options, "steps_per_epoch": 4}

    def fresh() -> tuple[torch.optim.Optimizer, list[Any]]:
        groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (0.5, 0.05)]
        optimizer = torch.optim.SGD(groups, lr=0.5, momentum=0.9)
        built = schedule(optimizer, **options)
        return optimizer, [built] if of_torch else [config["scheduler"] for config in built]

    optimizer, schedulers = fresh()
    found, factor = [], 1.0
    for step in range(20):
        saved = copy.deepcopy([optimizer.state_dict(), *(scheduler.state_dict() for scheduler in schedulers)])
        optimizer, schedulers = fresh()
        for part, state in zip([optimizer, *schedulers], saved, strict=True):
            part.load_state_dict(state)
        factor = factors.get(step, factor)
        for _ in range(2):  # the second time changes nothing
            scale_rates(optimizer, schedulers, factor)
        found.append(tuple(group["lr"] for group in optimizer.param_groups))
        optimizer.step()
        for scheduler in schedulers:
            if not isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
                scheduler.step()
            elif step % 4 == 3:
                scheduler.step(1.0)
    return found


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("name", SCHEDULES)
def test_factors_are_relative_to_the_schedule_itself(name: str) -> None:
    plain = rates(name, {})
    assert len(set(plain)) > 1 or name == "constant"
    scaled = rates(name, {6: 0.01, 14: 3.0})
    for step, (expected, found) in enumerate(zip(plain, scaled, strict=True)):
        factor = 1.0 if step < 6 else 0.01 if step < 14 else 3.0
        assert found == pytest.approx([rate * factor for rate in expected], rel=1e-9), step


def command(folder: Path, data_dir: Path, *words: str, code: int = 0) -> str:
    """Run `train.py` in a process; return its output."""
    line = [sys.executable, str(ROOT / "train.py"), f"data_dir={data_dir}", *words]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_two_processes_equal_one_process_in_both_phases(start, tmp_path: Path, data_dir, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{ROOT / 'tests' / 'helpers'}")
    words = (*TWO_PHASES, "optimizer=sgd", "optimizer.lr=0.5", "trainer.limit_train_batches=4", "+model.norm=false")
    runs = {"one": start(*words), **{name: RunDirectory(tmp_path / name) for name in ("two", "cut")}}

    def dump(name: str) -> list[str]:
        watch = f"+callbacks.watch={{_target_: observers.Watch, folder: {runs[name].path / 'watch'}}}"
        return [watch, f"hydra.run.dir={runs[name].path}"]

    command(tmp_path, data_dir, *words, "trainer=ddp_cpu", "trainer.max_epochs=4", *dump("two"))
    command(tmp_path, data_dir, *words, "trainer=ddp_cpu", "trainer.max_epochs=4", *dump("cut"), stop(10), code=130)
    resumed = command(tmp_path, data_dir, f"resume={runs['cut'].path}", "callbacks.stop=null")
    assert "resumed at step" in resumed

    one = watched(runs["one"])["state"]
    two = [watched(runs["two"], rank)["state"] for rank in (0, 1)]
    cut = [watched(runs["cut"], rank)["state"] for rank in (0, 1)]
    best = torch.load(runs["one"].best, weights_only=True)["state_dict"]
    for name, weight in one.items():
        assert torch.equal(two[0][name], two[1][name]), name
        assert torch.equal(cut[0][name], two[0][name]), name
        assert torch.equal(cut[1][name], two[0][name]), name
        assert torch.allclose(weight, two[0][name], rtol=1e-3, atol=1e-5), name
        if ".low." in name:
            assert torch.equal(weight, best[f"network.{name}"])
    moved = torch.load(runs["two"].last, weights_only=True)["state_dict"]["network.stages.high.conv.weight"]
    steps = watched(runs["two"], 1)["steps"]
    assert {step["epoch"]: stages_with_gradients(step) for step in steps} == {
        0: set(),
        1: set(),
        2: {"high"},
        3: {"high"},
    }
    assert torch.equal(moved, two[0]["stages.high.conv.weight"])
    for run in runs.values():
        assert run.read_result().frozen == FrozenStages(("low", "middle"), True)


@pytest.mark.slow
def test_a_change_in_one_process_fails_both(tmp_path: Path, data_dir: Path, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{ROOT / 'tests' / 'helpers'}")
    words = [*TWO_PHASES, "trainer=ddp_cpu", "trainer.max_epochs=3", f"hydra.run.dir={tmp_path / 'run'}"]
    printed = command(tmp_path, data_dir, *words, meddle(9, "stages.low.conv.weight")[:-1] + ", rank: 1}", code=1)
    assert "Frozen parameters or buffers have changed since they were frozen" in printed
    assert RunDirectory(tmp_path / "run").read_result().status == "failed"


QUICK = (*TINY, "callbacks=ema", "callbacks.ema.decay=0.9", "trainer.max_epochs=2", "logger=none", "report=false")
FROZEN_AGAIN = (*QUICK, "model.phases=[{epoch: 1, trainable: head}]")


@pytest.mark.slow
def test_a_moving_average_of_a_stage_frozen_again_is_no_change(start) -> None:
    run = start(*FROZEN_AGAIN)
    assert run.read_result().frozen == FrozenStages((), True)
    train(from_saved(run, ["tags=[again]"]))  # no further epoch: the weights are not the average
    assert run.read_result().status == "finished"
    train(from_saved(run, ["trainer.max_epochs=3"]))  # the weights of the checkpoint are compared
    assert run.read_result().epochs == 3


@pytest.mark.parametrize("tensor", ["stages.middle.conv.weight", STATISTICS])
def test_a_change_of_a_stage_frozen_again_is_found_with_a_moving_average(start, tensor: str) -> None:
    with pytest.raises(UserError, match=rf"have changed since they were frozen: {tensor}\."):
        start(*FROZEN_AGAIN, meddle(8, tensor))


def test_a_change_during_the_validation_of_a_moving_average_does_not_last(start) -> None:
    change = f"+callbacks.meddle={{_target_: observers.{ChangeInValidation.__name__}, step: 2, tensor: {STATISTICS}}}"
    run = start(*QUICK, "model.trainable=head", change)
    assert run.read_result().frozen == FrozenStages(("low", "middle", "high"), True)
