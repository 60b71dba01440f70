"""The accelerator and the number of devices."""

from pathlib import Path

import pytest
import torch

from opsin.commands.train import train
from opsin.config import compose
from opsin.errors import UserError
from opsin.training import build
from opsin.training.accelerator import Accelerator, Devices, num_devices
from opsin.training.plan import make_plan
from opsin.training.trainer import TrainerOptions, apply_hardware_settings, check_hardware


@pytest.mark.parametrize(
    ("accelerator", "devices", "num_nodes", "expected"),
    [("cpu", 1, 1, 1), ("cpu", 2, 4, 8), ("gpu", [0, 1, 3], 1, 3), ("cpu", "auto", 2, 2), ("gpu", "auto", 2, 6)],
)
def test_devices_are_counted(
    accelerator: Accelerator, devices: object, num_nodes: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert num_devices(accelerator, devices, num_nodes) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("devices", [[0], [0, 1]])
def test_indices_on_a_cpu_are_refused(devices: list[int]) -> None:
    with pytest.raises(UserError, match=r"trainer\.devices=\[0.*indices choose GPUs; on a CPU, give a number"):
        apply_hardware_settings(TrainerOptions(accelerator="cpu", devices=devices))


@pytest.mark.parametrize(("accelerator", "devices"), [("gpu", [1]), ("mps", [0]), ("cpu", 2), ("cpu", "auto")])
def test_indices_of_gpus_and_numbers_of_processes_are_accepted(
    accelerator: Accelerator, devices: Devices, monkeypatch: pytest.MonkeyPatch
) -> None:
    for backend in (torch.cuda, torch.backends.mps):
        monkeypatch.setattr(backend, "is_available", lambda: True)
    assert check_hardware(TrainerOptions(accelerator=accelerator, devices=devices)) == accelerator


@pytest.mark.parametrize("devices", ["[]", "-1", "0", "'0,1'"])
def test_no_devices_and_lists_as_text_are_refused_in_the_config(devices: str) -> None:
    with pytest.raises(UserError, match=r"trainer\.devices"):
        make_plan(compose([f"trainer.devices={devices}"]))


@pytest.mark.parametrize("option", ["devices=[0]", "sync_batchnorm=true", "num_nodes=2"])
def test_a_run_is_refused_before_images_are_read_and_batch_sizes_are_tried(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "data", lambda *_, **__: pytest.fail("the images were read"))
    with pytest.raises(UserError, match=rf"^trainer\.{option.partition('=')[0]}="):
        train(compose(["trainer=cpu", f"trainer.{option}", "datamodule.batch_size=auto"], tmp_path / "run"))
    assert not (tmp_path / "run").exists()
