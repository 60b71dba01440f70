"""No training step waits for the device, so a GPU always has work queued. The tests with a GPU are skipped without one.

On a CPU, the reads of tensors are counted that would wait for a GPU.
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from opsin.commands.train import train
from opsin.config import compose
from opsin.runs.directory import RunDirectory
from opsin.training import lightning_trainer
from opsin.training.callbacks import finite_loss
from opsin.training.callbacks.busy_machine import BusyMachine
from opsin.training.lightning_trainer import make_trainer
from opsin.training.trainer import TrainerOptions

WORDS = (
    "model=cnn_batchnorm",
    "augmentation=crop_flip",
    "datamodule.train_fraction=0.3",
    "datamodule.batch_size=32",  # 12 steps
    "trainer.max_epochs=1",
    "trainer.gradient_clip_norm=1",
    "callbacks.progress.bar=false",
    "logger=none",
    "test=false",
    "report=false",
)
WAITS = {"aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero", "aten::equal", "aten::masked_select"}
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


class CountWaits(TorchDispatchMode):
    """Count the operations that need a value of a tensor on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func._schema.name in WAITS
        return func(*args, **(kwargs or {}))


def fit(folder: Path, monkeypatch: pytest.MonkeyPatch, after_step: Callable[[int], None], *words: str) -> RunDirectory:
    """Train and call a function at the end of each step, after all other callbacks."""

    def end(self: BusyMachine, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        after_step(batch_idx)

    monkeypatch.setattr(BusyMachine, "on_train_batch_end", end)
    run = RunDirectory(folder / "run")
    run.path.mkdir()
    train(compose([*WORDS, f"data_dir={folder / 'data'}", f"output_dir={folder}", *words], run.path))
    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [("trainer.accumulate_grad_batches=2",), ("augmentation=mixup_cutmix", "callbacks=ema", "scheduler=onecycle")],
)
def test_a_step_reads_no_value_of_a_tensor(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finite_loss, "reads_every_step", lambda *_: False)  # as on a GPU
    counts: list[int] = []
    with CountWaits() as waits:
        fit(tmp_path, monkeypatch, lambda _: counts.append(waits.count), "trainer=cpu", *words)
    assert len(counts) >= 10
    assert counts[2] == counts[-2]  # the first steps build, and the last one ends the epoch
    assert waits.count > counts[-1]  # the metrics of the epoch are read, so the counter works


@pytest.mark.parametrize(("deterministic", "benchmark"), [("off", True), ("warn", False), ("strict", False)])
def test_cudnn_chooses_the_fastest_algorithms_unless_results_must_repeat(
    deterministic: Any, benchmark: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(lightning, "Trainer", lambda **options: made.append(options) or SimpleNamespace(global_rank=0))
    for patch in ("pass_step_arguments", "validate_at_end", "stop_after_steps", "count_epochs"):
        monkeypatch.setattr(lightning_trainer, patch, lambda trainer: None)
    before = torch.get_float32_matmul_precision()
    try:
        make_trainer(TrainerOptions(deterministic=deterministic), callbacks=[], loggers=[], folder=tmp_path)
    finally:
        torch.set_float32_matmul_precision(before)
    assert (made[0]["benchmark"], made[0]["precision"]) == (benchmark, "bf16-mixed")


@needs_gpu
@pytest.mark.parametrize("on_device", ["true", "false"])
def test_a_step_on_a_gpu_does_not_wait(on_device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def after_step(batch_idx: int) -> None:
        if batch_idx == 2:
            torch.cuda.set_sync_debug_mode("error")
        if batch_idx == 8:
            torch.cuda.set_sync_debug_mode("default")

    try:
        run = fit(
            tmp_path, monkeypatch, after_step, "trainer=gpu", "callbacks=ema", f"datamodule.on_device={on_device}"
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")
    settings = run.read_result().settings
    assert settings is not None
    assert (settings.accelerator, settings.channels_last) == ("cuda", True)
    assert torch.backends.cudnn.benchmark


@needs_gpu
def test_the_optimizer_of_a_gpu_is_fused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        fit(tmp_path, monkeypatch, lambda _: None, "trainer=gpu")
    assert any("_fused_adam" in event.key for event in profiled.key_averages())
