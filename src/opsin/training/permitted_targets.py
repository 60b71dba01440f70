"""Permitted targets: the public constructors that each section of a config accepts as `_target_`.

The sections and their lists are `model` (`NETWORKS`), `datamodule` (`DATASETS`), `augmentation` (`AUGMENTATIONS`),
`optimizer` (`OPTIMIZERS`), `scheduler` (`SCHEDULES`), `callbacks` (`CALLBACKS`, one `_target_` for each callback) and
`logger` (`LOGGERS`, one for each logger). Only these sections and `launcher` accept `_target_`. In every other section,
and at any deeper level of these sections, `_target_` is refused (`opsin.config.validation`).

A name is permitted in these three cases and in no other (`opsin.config.target_lookup` looks it up):

1. It is a public name of a package on the list of its section below, and the object passes the test that is listed with
   the package. Public names are the names in `__all__`. If there is no `__all__`, they are the names that the package
   defines. Names that begin with `_` are never public.
2. In the section `launcher`, it is a class of `opsin.sweeps.launchers` (the list is in `opsin.sweeps.checked_sweep`).
3. It is the public name of a class, or of a function, that a permitted package of the user defines. A class must be of
   the kind of the section, such as `nn.Module` for a network; the test is `own` below. Callbacks and loggers are
   classes only. A launcher is any class, because `Launcher` is a protocol. A package is permitted by the environment
   variable `OPSIN_TARGETS=package_a,package_b`, or by `targets = ["package_a"]` under `[tool.opsin]` in the
   `pyproject.toml` of the project in which the command starts. A run directory never permits a package.
"""

import inspect
from typing import Any

from torch import nn, optim
from torch.optim import Optimizer, lr_scheduler

from opsin.config.target_lookup import (
    Constructors,
    functions_or_subclasses_of,
    functions_returning,
    subclasses_of,
)
from opsin.data.source import Source
from opsin.models import Network


def _is_schedule(found: Any) -> bool:
    """Return whether an object is a function from an optimizer to Lightning's scheduler configs."""
    return inspect.isfunction(found) and next(iter(found.__annotations__.values()), None) is Optimizer


REPLACED = {lr_scheduler.ReduceLROnPlateau: "scheduler=plateau"}
"""Schedules of torch that Opsin replaces, and the words of the command line that do so."""


def _is_torch_schedule(found: Any) -> bool:
    """Return whether an object is a schedule of torch that a config can describe.

    Schedules that take functions or other schedules as arguments are excluded, and those of `REPLACED`.
    """
    needs_objects = (lr_scheduler.LambdaLR, lr_scheduler.MultiplicativeLR)
    of_schedules = (lr_scheduler.SequentialLR, lr_scheduler.ChainedScheduler)
    excluded = (*needs_objects, *of_schedules, *REPLACED)
    return subclasses_of(lr_scheduler.LRScheduler)(found) and found not in excluded


def _is_torch_optimizer(found: Any) -> bool:
    """Return whether an object is an optimizer of torch for parameter groups and dense gradients."""
    return subclasses_of(Optimizer)(found) and found not in (optim.LBFGS, optim.SparseAdam)


def _is_timm_optimizer(found: Any) -> bool:
    """Return whether an object is a timm optimizer that a config can describe and that needs only one backward pass.

    `timm.optim` also holds optimizers of torch, a wrapper of another optimizer, and a second-order optimizer.
    """
    of_timm = subclasses_of(Optimizer)(found) and found.__module__.startswith("timm.")
    return of_timm and found.__name__ not in ("Lookahead", "Adahessian")


def _is_image_transform(found: Any) -> bool:
    """Return whether an object is a class of image transforms."""
    from torchvision.transforms.v2 import Transform  # takes a second to import; most runs need none

    return subclasses_of(Transform)(found)


def _is_callback(found: Any) -> bool:
    """Return whether an object is a concrete class of callbacks."""
    from lightning.pytorch.callbacks import Callback  # takes seconds to import; predictions need none

    return subclasses_of(Callback)(found)


def _is_logger(found: Any) -> bool:
    """Return whether an object is a concrete class of loggers."""
    from lightning.pytorch.loggers import Logger  # takes seconds to import; predictions need none

    return subclasses_of(Logger)(found)


NETWORKS = Constructors({"opsin.models": functions_returning(Network)}, own=functions_or_subclasses_of(nn.Module))
DATASETS = Constructors({"opsin.data.datasets": functions_returning(Source)}, own=functions_or_subclasses_of(Source))
AUGMENTATIONS = Constructors(
    {"opsin.data.augmentation": subclasses_of(nn.Module), "torchvision.transforms.v2": _is_image_transform},
    own=functions_or_subclasses_of(nn.Module),
)
OPTIMIZERS = Constructors(
    {"torch.optim": _is_torch_optimizer, "timm.optim": _is_timm_optimizer}, own=functions_or_subclasses_of(Optimizer)
)
SCHEDULES = Constructors(
    {"opsin.training.optim": _is_schedule, "torch.optim.lr_scheduler": _is_torch_schedule},
    own=functions_or_subclasses_of(lr_scheduler.LRScheduler),
    replaced={f"torch.optim.lr_scheduler.{found.__name__}": instead for found, instead in REPLACED.items()},
)
CALLBACKS = Constructors(
    {"opsin.training.callbacks": _is_callback, "lightning.pytorch.callbacks": _is_callback}, own=_is_callback
)
LOGGERS = Constructors({"opsin.training.loggers": _is_logger, "lightning.pytorch.loggers": _is_logger}, own=_is_logger)
