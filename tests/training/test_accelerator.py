"""The accelerator and the number of devices."""

import pytest
import torch

from opsin.training.accelerator import Accelerator, num_devices


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
