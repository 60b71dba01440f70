"""Device and precision of a network that is used without a trainer, the same as in the validation of its run."""

import contextlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from opsin.training.precision import lightning_precision
from opsin.training.trainer import TrainerOptions, apply_hardware_settings

M = TypeVar("M", bound=nn.Module)

CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""Environment variable that cuBLAS needs to be deterministic."""

AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""Type of the operations that autocast converts, by precision."""

WEIGHTS = {"bf16-true": torch.bfloat16, "64-true": torch.float64}
"""Type of the weights, by precision; float32 otherwise."""


@dataclass(frozen=True)
class ComputeDevice:
    """One device and one precision, by the same rules as in training.

    Attributes:
        device: The device.
        precision: Lightning's name of the precision, such as `bf16-mixed`.
    """

    device: torch.device
    precision: str

    def convert(self, network: M) -> M:
        """Move a network to the device and convert its weights, in place."""
        if dtype := WEIGHTS.get(self.precision):
            network.to(dtype)
        return network.to(self.device)

    def forward_context(self) -> AbstractContextManager[None]:
        """Return the context of a forward pass."""
        if dtype := AUTOCAST.get(self.precision):
            return torch.autocast(self.device.type, dtype, cache_enabled=False)
        return _default_dtype(WEIGHTS[self.precision]) if self.precision in WEIGHTS else contextlib.nullcontext()


def compute_device(options: TrainerOptions) -> ComputeDevice:
    """Return the device and the precision of an evaluation, and set the options of this process that it needs.

    `opsin.training.accelerator` and `opsin.training.precision` choose them for `auto`.

    Args:
        options: The keys of the `trainer` section, for one device.

    Raises:
        UserError: The accelerator is not available.
    """
    accelerator = apply_hardware_settings(options)
    if options.deterministic != "off":  # as Lightning does
        torch.use_deterministic_algorithms(True, warn_only=options.deterministic == "warn")
        os.environ[CUBLAS_WORKSPACE] = ":4096:8"
    device = {"gpu": torch.device("cuda", 0), "mps": torch.device("mps", 0)}.get(accelerator, torch.device("cpu"))
    return ComputeDevice(device, lightning_precision(options.precision, accelerator))


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Set the type of new tensors within a block."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
