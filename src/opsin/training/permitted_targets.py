"""Permitted targets: the public constructors that each section of a config accepts as `_target_`.

`opsin.config.target_lookup` checks a name against these lists and permits packages of the user. The launchers of sweeps
are listed in `opsin.sweeps.sweep`.
"""

import inspect
from typing import Any

import lightning as L
from lightning.pytorch.loggers import Logger
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

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


def _is_torch_schedule(found: Any) -> bool:
    """Return whether an object is a schedule of torch; `opsin.training.optim.plateau` replaces its plateau schedule."""
    return subclasses_of(LRScheduler)(found) and found is not ReduceLROnPlateau


def _is_image_transform(found: Any) -> bool:
    """Return whether an object is a class of image transforms."""
    from torchvision.transforms.v2 import Transform  # takes a second to import; most runs need none

    return subclasses_of(Transform)(found)


NETWORKS = Constructors({"opsin.models": functions_returning(Network)}, own=functions_or_subclasses_of(nn.Module))
DATASETS = Constructors({"opsin.data.datasets": functions_returning(Source)}, own=functions_or_subclasses_of(Source))
AUGMENTATIONS = Constructors(
    {"opsin.data.augmentation": subclasses_of(nn.Module), "torchvision.transforms.v2": _is_image_transform},
    own=functions_or_subclasses_of(nn.Module),
)
OPTIMIZERS = Constructors({"torch.optim": subclasses_of(Optimizer)}, own=functions_or_subclasses_of(Optimizer))
SCHEDULES = Constructors(
    {"opsin.training.optim": _is_schedule, "torch.optim.lr_scheduler": _is_torch_schedule},
    own=functions_or_subclasses_of(LRScheduler),
)
CALLBACKS = Constructors(
    {"opsin.training.callbacks": subclasses_of(L.Callback), "lightning.pytorch.callbacks": subclasses_of(L.Callback)},
    own=subclasses_of(L.Callback),
)
LOGGERS = Constructors(
    {"opsin.training.tensorboard": subclasses_of(Logger), "lightning.pytorch.loggers": subclasses_of(Logger)},
    own=subclasses_of(Logger),
)
