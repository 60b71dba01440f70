"""`datamodule.batch_size=auto`: the rules, and that a run with it equals a run with the value that it found."""

from pathlib import Path
from typing import Any

import pytest
import torch

from opsin.commands.evaluate import evaluate
from opsin.commands.train import train
from opsin.config import RunConfig, compose, from_saved
from opsin.errors import UserError
from opsin.runs.directory import RunDirectory
from opsin.training import build
from opsin.training.plan import RunPlan, make_plan
from opsin.training.tuning import TrialSteps, batch_size
from opsin.training.tuning.batch_size import (
    find_batch_size,
    largest_that_fits,
    measure_throughput,
    powers_of_two,
    scaling_rule,
    smallest_within,
    step_fits,
)

WORDS = ("model=mlp", "trainer=cpu", "trainer.max_epochs=2", "callbacks.progress.bar=false", "augmentation=digits")


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def composed(data_dir: Path, tmp_path: Path):
    def composed(*words: str, name: str = "run") -> RunConfig:
        run = tmp_path / "outputs" / name
        run.mkdir(parents=True, exist_ok=True)
        return compose([f"data_dir={data_dir}", f"output_dir={tmp_path / 'outputs'}", *WORDS, *words], run)

    return composed


def trials(composed: RunConfig) -> tuple[RunPlan, Any, TrialSteps]:
    plan = make_plan(composed)
    data = build.data(plan)
    data.setup("fit")
    return plan, data, TrialSteps(plan, data, build.loss(plan, data), composed.run.path)


@pytest.fixture
def thirty_two(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Make 32 the fastest size; yield the list of measured sizes."""
    asked: list[int] = []

    def measure(trials: TrialSteps, sizes: list[int]) -> dict[int, float]:
        asked.extend(sizes)
        trials.run(batch_size_watch(), batch_size=sizes[0], steps=2)  # real steps, which must have no side effects
        return {16: 100.0, 32: 1000.0}

    monkeypatch.setattr(batch_size, "measure_throughput", measure)
    return asked


def batch_size_watch():
    from opsin.training.tuning.trial_steps import Watch

    return Watch()


@pytest.mark.parametrize(
    ("memory", "most", "expected"),
    [
        (100, 10_000, 96),
        (64, 10_000, 64),
        (127, 10_000, 96),
        (10**9, 1000, 768),
        (5, 10_000, 4),
        (0, 64, 0),
        (99, 7, 7),
    ],
)
def test_the_largest_batch_that_fits(memory: int, most: int, expected: int) -> None:
    assert largest_that_fits(lambda size: size <= memory, most) == expected


def test_the_smallest_batch_that_is_fast_enough() -> None:
    assert smallest_within({16: 10.0, 32: 95.1, 64: 100.0, 128: 99.0}) == 32
    assert smallest_within({16: 10.0, 32: 94.9, 64: 100.0}) == 64


def test_tried_batch_sizes_are_powers_of_two() -> None:
    assert powers_of_two(16, 512) == [16, 32, 64, 128, 256, 512]
    assert powers_of_two(16, 100) == [16, 32, 64]
    assert powers_of_two(16, 5) == [5]


def test_the_scaling_rule_is_linear_for_sgd_and_square_root_for_adam() -> None:
    assert scaling_rule(torch.optim.SGD) == ("linear", 1.0)
    assert {scaling_rule(kind) for kind in (torch.optim.Adam, torch.optim.AdamW)} == {("square root", 0.5)}


@pytest.mark.parametrize(
    ("words", "lr", "expected"),
    [
        ([], 0.002, 0.002828),
        (["optimizer=sgd"], 0.01, 0.02),
        (["optimizer=sgd", "datamodule.base_batch_size=64"], 0.01, 0.005),
        (["optimizer.lr=0.1", "datamodule.base_batch_size=32"], 0.1, 0.1),
    ],
)
def test_the_learning_rate_is_scaled_from_base_batch_size(
    words: list[str], lr: float, expected: float, composed, thirty_two
) -> None:
    found = find_batch_size(*trials(composed("datamodule.batch_size=auto", *words)))
    assert (found.batch_size, found.lr_before, found.lr) == (32, lr, pytest.approx(expected, rel=1e-3))


def test_base_batch_size_is_kept_if_only_one_size_was_measured(composed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_size, "measure_throughput", lambda *_: {16: 1.0})
    found = find_batch_size(*trials(composed("datamodule.batch_size=auto", "datamodule.base_batch_size=24")))
    assert (found.batch_size, found.lr, found.tried) == (24, 0.002, {16: 1.0})


def test_tried_sizes_depend_on_the_number_of_images_and_of_devices(composed, thirty_two) -> None:
    find_batch_size(*trials(composed("datamodule.batch_size=auto")))
    assert thirty_two == [16, 32]  # of 1,294 images
    thirty_two.clear()
    found = find_batch_size(*trials(composed("datamodule.batch_size=auto", "trainer=ddp_cpu")))
    assert (found.batch_size, thirty_two) == (64, [16])


@pytest.mark.parametrize(("accumulated", "sizes", "steps"), [(1, [16, 32], 41), (2, [16], 21), (3, [16], 14)])
def test_accumulated_batches_are_one_step(
    accumulated: int, sizes: list[int], steps: int, composed, thirty_two, caplog: pytest.LogCaptureFixture
) -> None:
    words = (f"trainer.accumulate_grad_batches={accumulated}", "datamodule.batch_size=auto")
    with caplog.at_level("INFO"):
        find_batch_size(*trials(composed(*words)))
    assert thirty_two == sizes  # of 1,294 images
    assert f"; {steps} steps per epoch" in caplog.text  # of 41 batches of 32 images


@pytest.mark.parametrize(("accumulated", "most"), [(1, 40), (2, 20), (4, 16)])
def test_a_gpu_tries_no_batch_with_fewer_than_32_steps_per_epoch(
    accumulated: int, most: int, composed, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []
    monkeypatch.setattr(batch_size, "resolve_accelerator", lambda _: "gpu")
    monkeypatch.setattr(batch_size, "_largest_on_cuda", lambda _, most, *rest: tried.append(most) or 16)
    find_batch_size(*trials(composed(f"trainer.accumulate_grad_batches={accumulated}", "datamodule.batch_size=auto")))
    assert tried == [most]


@pytest.mark.slow
def test_an_auto_run_equals_a_run_with_the_found_values(composed, thirty_two) -> None:
    train(composed("datamodule.batch_size=auto", name="auto"))
    assert thirty_two
    auto = composed(name="auto").run
    result = auto.read_result()
    assert result.settings.batch_size == 32
    facts = result.batch_size_auto
    assert (facts.base_batch_size, facts.lr_before, facts.lr, facts.rule) == (16, 0.002, 0.002828, "square root")
    train(composed("datamodule.batch_size=32", "optimizer.lr=0.002828", name="by-hand"))
    by_hand = RunDirectory(auto.path.parent / "by-hand")
    assert by_hand.read_result().metrics == result.metrics
    weights = [torch.load(run.last, weights_only=True)["state_dict"] for run in (auto, by_hand)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[1])

    thirty_two.clear()  # from here on nothing is measured again
    tree = RunConfig.load(auto).tree
    assert (tree["datamodule"]["batch_size"], tree["optimizer"]["lr"]) == (32, 0.002828)
    assert evaluate(auto).metrics["test/loss"] == result.metrics["test/loss"]
    train(from_saved(auto, ["trainer.max_epochs=3"]))
    again = auto.read_result()
    assert (again.epochs, again.settings.batch_size, again.batch_size_auto) == (3, 32, facts)
    with pytest.raises(UserError, match="cannot be changed on resume"):
        train(from_saved(auto, ["datamodule.batch_size=auto"]))
    assert thirty_two == []


def test_other_processes_use_the_values_of_the_first_process(composed, monkeypatch: pytest.MonkeyPatch) -> None:
    config = composed("datamodule.batch_size=auto")
    config.changed({"datamodule.batch_size": 48, "optimizer.lr": 0.5}).save()
    plan, data, _ = trials(config)
    monkeypatch.setenv("LOCAL_RANK", "1")
    _, plan, found = batch_size.resolve_batch_size(config, plan, data, build.loss(plan, data))
    assert found is None
    assert (data.batch_size, plan.groups.lr) == (48, 0.5)


def test_waiting_for_the_first_process_has_a_time_limit(composed, monkeypatch: pytest.MonkeyPatch) -> None:
    config = composed("datamodule.batch_size=auto")
    plan, data, _ = trials(config)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(batch_size, "PATIENCE_S", 0.1)
    with pytest.raises(UserError, match="wrote no number"):
        batch_size.resolve_batch_size(config, plan, data, build.loss(plan, data))


def test_a_given_batch_size_is_not_changed(composed) -> None:
    config = composed("datamodule.batch_size=48")
    plan, data, _ = trials(config)
    assert batch_size.resolve_batch_size(config, plan, data, build.loss(plan, data)) == (config, plan, None)
    assert data.batch_size == 48


@pytest.mark.slow
def test_batch_sizes_that_run_out_of_memory_do_not_fit(composed, monkeypatch: pytest.MonkeyPatch) -> None:
    from opsin.models import Network

    forward = Network.forward

    def limited(self: Network, x: torch.Tensor, **options: Any) -> torch.Tensor:
        if len(x) > 24:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, x, **options)

    monkeypatch.setattr(Network, "forward", limited)
    _, _, steps = trials(composed())
    assert (step_fits(steps, 24), step_fits(steps, 25)) == (True, False)
    assert largest_that_fits(lambda size: step_fits(steps, size), 100) == 24


class Failing:
    """Trial steps that fail above 24 images."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def run(self, watch: Any, *, batch_size: int, **options: Any) -> None:
        if batch_size > 24:
            raise self.error


@pytest.mark.parametrize(
    "library", ["CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate", "CUDNN_STATUS_ALLOC_FAILED"]
)
def test_a_library_of_cuda_without_memory_means_that_a_batch_does_not_fit(library: str) -> None:
    steps: Any = Failing(RuntimeError(f"CUDA error: {library}"))
    assert largest_that_fits(lambda size: step_fits(steps, size), 100) == 24
    with pytest.raises(RuntimeError, match="shapes"):
        step_fits(Failing(RuntimeError("shapes do not match")), 25)  # type: ignore[arg-type]


def test_throughput_is_measured_by_real_steps(composed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opsin.training.tuning.batch_size.ENOUGH_S", 0.02)
    _, _, steps = trials(composed())
    rates = measure_throughput(steps, [16, 32], seconds=30)
    assert set(rates) == {16, 32}
    assert all(rate > 0 for rate in rates.values())
    assert set(measure_throughput(steps, [16, 32], seconds=0)) == {16}  # the time limit permits no more
    monkeypatch.setattr("opsin.training.tuning.batch_size.available_memory", lambda: -1.0)
    assert set(measure_throughput(steps, [16, 32], seconds=30)) == {16}
