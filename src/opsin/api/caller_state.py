"""Leave the process of the caller as it was: a script or a notebook continues after training."""

import logging
import os
import random
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from opsin.config.hydra_session import hydra_state
from opsin.inference.compute_device import CUBLAS_WORKSPACE

LOGGERS = ("lightning.pytorch", "lightning.fabric", "opsin")
"""Loggers whose level Opsin sets."""


@dataclass(frozen=True)
class TorchSettings:
    """Settings of torch that hold for the whole process and affect numerical results.

    Attributes:
        threads: Number of CPU threads.
        matmul_precision: Precision of float32 matrix products: `highest`, `high` or `medium`.
        deterministic: Whether operations must be deterministic.
        warn_only: Whether an operation that is not deterministic is reported rather than refused.
        cudnn_deterministic: The same for cuDNN.
        cudnn_benchmark: Whether cuDNN measures its algorithms.
        cublas_workspace: The environment variable that cuBLAS needs to be deterministic; None if it is not set.
    """

    threads: int
    matmul_precision: str
    deterministic: bool
    warn_only: bool
    cudnn_deterministic: bool
    cudnn_benchmark: bool
    cublas_workspace: str | None

    @classmethod
    def current(cls) -> "TorchSettings":
        """Return the settings of this process."""
        return cls(
            torch.get_num_threads(),
            torch.get_float32_matmul_precision(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.benchmark,
            os.environ.get(CUBLAS_WORKSPACE),
        )

    def apply(self) -> None:
        """Make them the settings of this process."""
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        if torch.get_float32_matmul_precision() != self.matmul_precision:
            torch.set_float32_matmul_precision(self.matmul_precision)
        deterministic = torch.are_deterministic_algorithms_enabled()
        warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
        if (deterministic, warn_only) != (self.deterministic, self.warn_only):
            torch.use_deterministic_algorithms(self.deterministic, warn_only=self.warn_only)
        torch.backends.cudnn.deterministic = self.cudnn_deterministic
        torch.backends.cudnn.benchmark = self.cudnn_benchmark
        if self.cublas_workspace is None:
            os.environ.pop(CUBLAS_WORKSPACE, None)
        else:
            os.environ[CUBLAS_WORKSPACE] = self.cublas_workspace

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Apply them within a block."""
        before = self.current()
        self.apply()
        try:
            yield
        finally:
            before.apply()


@contextmanager
def caller_state() -> Iterator[None]:
    """Restore the state of the process after a block.

    Restored are the environment variables, the signal handlers, the levels of loggers, the filters of warnings, the
    random generators of Python, NumPy and torch, the settings of torch, and the state of Hydra. The working directory
    does not change at all. The block computes gradients, also if the caller is in `torch.inference_mode()`.
    """
    with ExitStack() as restored, torch.inference_mode(False), torch.enable_grad():
        restored.callback(_restore_environment, dict(os.environ))
        if threading.current_thread() is threading.main_thread():
            restored.callback(_restore_handlers, {n: signal.getsignal(n) for n in signal.valid_signals()})
        for name in LOGGERS:
            restored.callback(logging.getLogger(name).setLevel, logging.getLogger(name).level)
        restored.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message="IProgress not found")  # from tqdm, which Opsin hides
        restored.callback(_restore_random, random.getstate(), np.random.get_state(), torch.get_rng_state())  # noqa: NPY002
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            restored.callback(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())
        restored.callback(TorchSettings.current().apply)
        restored.enter_context(hydra_state())
        yield


def _restore_environment(variables: dict[str, str]) -> None:
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    os.environ.update(variables)


def _restore_random(of_python: Any, of_numpy: Any, of_torch: torch.Tensor) -> None:
    random.setstate(of_python)
    np.random.set_state(of_numpy)  # noqa: NPY002 - libraries draw from the global generator too
    torch.set_rng_state(of_torch)


def _restore_handlers(handlers: dict[signal.Signals, object]) -> None:
    for number, handler in handlers.items():
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)  # type: ignore[arg-type]
