"""Opsin: train, explain and compare image classifiers from config files.

The Python API has three functions. Importing opsin is fast: torch is loaded when `load` or `train` is first used.

    import opsin

    run = opsin.train("model=cnn_gap", datamodule={"batch_size": 64})
    model = opsin.load("outputs/latest")
    model.predict("photo.jpg").label
    opsin.compare(["outputs/a", "outputs/b"])
"""

import importlib
from typing import TYPE_CHECKING

from opsin.errors import UserError

if TYPE_CHECKING:
    from opsin.api.compared_runs import compare
    from opsin.api.loaded_model import load
    from opsin.api.trained_run import train

__version__ = "0.1.0"

__all__ = ["UserError", "__version__", "compare", "load", "train"]

_HOMES = {
    "compare": "opsin.api.compared_runs",
    "load": "opsin.api.loaded_model",
    "train": "opsin.api.trained_run",
}
"""The module of each function that is imported at its first use."""

if not TYPE_CHECKING:  # otherwise a type checker would accept any name

    def __getattr__(name: str) -> object:
        """Import a function of the API at its first use."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
