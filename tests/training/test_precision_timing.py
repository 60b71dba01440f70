"""The measurement that decides between bfloat16 and float32, with given clocks and on this machine."""

import contextlib
import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import halving, tiny
from torch import nn

from opsin.commands.train import train
from opsin.config import compose, from_saved
from opsin.errors import UserError
from opsin.models import Network, strided_cnn
from opsin.models.plain_network import as_network
from opsin.runs.directory import RunDirectory
from opsin.training.precision import LEAST_GAIN
from opsin.training.precision_timing import (
    SLOW_STEP_S,
    Step,
    bfloat16_gain,
    decide_precision,
    gradient_fault,
    measure_gain,
)
from opsin.training.trainer import TrainerOptions

AVX512 = {"avx512_bf16": True}
SHAPE = (3, 8, 8)


class Machine:
    """A machine with given durations of steps; its clock advances only in steps.

    Attributes:
        sizes: Batch size of each step.
    """

    def __init__(self, seconds_per_image: float, gain: float, load: Iterator[float] | None = None) -> None:
        self.now = 0.0
        self.sizes: list[int] = []
        self._seconds = {False: seconds_per_image, True: seconds_per_image / gain}
        self._load = load

    def clock(self) -> float:
        return self.now

    def step_of(self, size: int) -> Step:
        def step(bfloat16: bool) -> None:
            self.sizes.append(size)
            self.now += size * self._seconds[bfloat16] * (next(self._load) if self._load else 1.0)

        return step


@pytest.mark.parametrize("gain", [0.4, 1.0, 2.5])
def test_the_median_ratio_is_found_within_the_time(gain: float) -> None:
    machine = Machine(0.001, gain)
    assert measure_gain(machine.step_of, 64, clock=machine.clock) == pytest.approx(gain)
    assert machine.now < 2.5
    assert set(machine.sizes) == {64}


def test_one_slow_measurement_does_not_change_the_ratio() -> None:
    machine = Machine(0.001, 2.0, iter([1.0] * 9 + [8.0] + [1.0] * 100))
    assert measure_gain(machine.step_of, 8, clock=machine.clock) == pytest.approx(2.0)


def test_a_slow_network_is_measured_with_fewer_images() -> None:
    machine = Machine(0.1, 1.6)
    assert measure_gain(machine.step_of, 64, clock=machine.clock) == pytest.approx(1.6)
    assert machine.sizes[-1] * 0.1 <= SLOW_STEP_S
    slow = Machine(30.0, 1.6)  # one step takes more than all the time
    assert measure_gain(slow.step_of, 1, clock=slow.clock) == pytest.approx(1.6)
    assert len(slow.sizes) == 4


@pytest.mark.parametrize("fewest", [1, 2])
@pytest.mark.parametrize("images", [3, 6, 64])
def test_no_step_has_fewer_images_than_it_needs(images: int, fewest: int) -> None:
    machine = Machine(30.0, 1.6)
    measure_gain(machine.step_of, images, fewest, clock=machine.clock)
    assert min(machine.sizes) == fewest


@pytest.mark.parametrize(("side", "batch_size"), [(600, 64), (8, 1), (8, 6)])
def test_a_training_step_has_two_images(
    side: int, batch_size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BatchNorm refuses a single image whose map is one pixel: of large images, small batches and slow networks."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("opsin.training.precision_timing.SLOW_STEP_S", 0.0)
    monkeypatch.setattr("opsin.training.precision_timing.MOST_PAIRS", 1)
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 3))
    network = as_network("pooled", pooled, num_logits=3, in_channels=3, image_size=(8, 8))
    for trains in (True, False):
        options = TrainerOptions(accelerator="cpu")
        assert bfloat16_gain(network, (3, side, side), batch_size, options=options, trains=trains) > 0


@pytest.mark.parametrize("trains", [True, False])
def test_a_network_is_measured_once_and_not_changed(
    trains: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    network = tiny(num_logits=3, in_channels=3, image_size=(8, 8))
    before, random = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    options, found = decide_precision(
        TrainerOptions(accelerator="cpu"), network, SHAPE, 4, trains=trains, capabilities=AVX512
    )
    assert found is not None
    assert found.speedup is not None
    assert options.precision == found.precision == ("bf16" if found.speedup >= LEAST_GAIN else "32")
    assert torch.equal(torch.get_rng_state(), random)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())

    (file,) = (tmp_path / "opsin" / "machine").glob("bfloat16-*.json")
    facts = json.loads(file.read_text())["facts"]
    assert (facts["instructions"], facts["torch"], facts["shape"]) == (["AVX512_BF16"], torch.__version__, [3, 8, 8])
    file.write_text(json.dumps({"value": 7.0, "facts": facts}))  # measured before
    _, again = decide_precision(
        TrainerOptions(accelerator="cpu"), network, SHAPE, 4, trains=trains, capabilities=AVX512
    )
    assert again is not None
    assert again.speedup == 7.0


def test_each_setting_has_a_measurement_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("opsin.training.precision_timing.measure_gain", lambda *_: 2.0)
    network, options = tiny(num_logits=3, in_channels=3, image_size=(8, 8)), TrainerOptions(accelerator="cpu")
    frozen = tiny(num_logits=3, in_channels=3, image_size=(8, 8))
    frozen.freeze([])
    cases = [
        (options, network, SHAPE, 4, AVX512),
        (options, network, (3, 16, 16), 4, AVX512),
        (options, network, SHAPE, 8, AVX512),
        (options, frozen, SHAPE, 4, AVX512),
        (options, tiny(num_logits=3, in_channels=3, image_size=(8, 8), norm=False), SHAPE, 4, AVX512),
        (options, network, SHAPE, 4, {"avx512_bf16": True, "amx_bf16": True}),
        (replace(options, channels_last=False), network, SHAPE, 4, AVX512),
    ]
    for case in cases:
        *given, processor = case
        assert decide_precision(*given, capabilities=processor)[0].precision == "bf16"  # type: ignore[arg-type]
    assert len(list((tmp_path / "opsin" / "machine").glob("*.json"))) == len(cases)


def test_a_network_with_wrong_bfloat16_gradients_stays_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opsin.training.precision_timing.bfloat16_gain", lambda *_, **__: 3.0)
    halved = nn.Sequential(*(nn.Conv2d(3, 3, 3, stride=2, padding=1) for _ in range(3)), nn.Flatten())
    network = as_network("halved", halved, num_logits=3, in_channels=3, image_size=(4, 4))
    options = TrainerOptions(accelerator="cpu")
    for side, trains, precision in ((4, True, "32"), (8, True, "bf16"), (4, False, "bf16")):
        found, decided = decide_precision(options, network, (3, side, side), 4, trains=trains, capabilities=AVX512)
        assert found.precision == precision
        assert decided is not None
        assert ("wrong bfloat16 gradients" in decided.reason) == (precision == "32")
    ours = strided_cnn(num_logits=3, in_channels=3, image_size=(8, 8))  # it takes stride 1 there
    assert decide_precision(options, ours, (3, 8, 8), 4, capabilities=AVX512)[0].precision == "bf16"


def test_processes_of_one_run_choose_the_same_precision_without_a_measurement() -> None:
    network = tiny(num_logits=3, in_channels=3, image_size=(8, 8))
    options, found = decide_precision(
        TrainerOptions(accelerator="cpu", devices=2), network, SHAPE, 4, capabilities=AVX512
    )
    assert found is not None
    assert (options.precision, found.speedup) == ("bf16", None)
    chosen = TrainerOptions(accelerator="cpu", precision="32")
    assert decide_precision(chosen, network, SHAPE, 4, capabilities=AVX512) == (chosen, None)


def halves(side: int) -> Network:
    return halving(num_logits=3, in_channels=3, image_size=(side, side))


@pytest.mark.parametrize("precision", ["bf16", "bf16-true", "16", 16])
def test_wrong_bfloat16_gradients_are_named_for_layers_that_train(precision: str) -> None:
    options = TrainerOptions(accelerator="cpu", precision=precision)  # type: ignore[arg-type]
    fault = gradient_fault(options, halves(4), (3, 4, 4), frozen=())
    assert fault is not None
    half = ", which is bf16 on a CPU" if precision in ("16", 16) else ""
    assert fault.startswith(f"trainer.precision={precision}{half}: torch computes wrong bfloat16 gradients")
    assert fault.endswith("Set trainer.precision=32")
    assert gradient_fault(options, halves(4), (3, 4, 4), frozen=("first", "second"))
    assert gradient_fault(options, halves(4), (3, 4, 4), frozen=("last",)) is None
    assert gradient_fault(options, halves(8), (3, 8, 8), frozen=()) is None


@pytest.mark.parametrize("precision", ["32", "64"])
def test_other_precisions_have_no_wrong_gradients(precision: str) -> None:
    options = TrainerOptions(accelerator="cpu", precision=precision)  # type: ignore[arg-type]
    assert gradient_fault(options, halves(4), (3, 4, 4), frozen=()) is None


def test_a_new_run_with_wrong_gradients_is_refused_and_a_resumed_one_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPSIN_TARGETS", "tiny")
    words = ("model._target_=tiny.halving", "datamodule.image_size=4", "augmentation=none")
    quick = ("trainer=cpu", "trainer.max_epochs=1", "callbacks=no_pictures", "logger=none", "report=false")
    places = (f"data_dir={tmp_path / 'data'}", f"output_dir={tmp_path}", "datamodule.train_fraction=0.2")
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(UserError, match=r"trainer\.precision=bf16: .* Set trainer\.precision=32"):
        train(compose([*words, *quick, *places, "trainer.precision=bf16"], run.path))
    assert not run.last.exists()
    run = RunDirectory(tmp_path / "other")
    train(compose([*words, *quick, *places], run.path))
    with contextlib.suppress(UserError):  # wrong gradients, from memory of others, may not be finite
        train(from_saved(run, ["trainer.precision=bf16", "trainer.max_epochs=2"]))
    assert "wrong bfloat16 gradients" in caplog.text
