"""Features of a frozen network: computed once per image and cached on disk."""

import contextlib
import hashlib
import importlib.metadata
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from opsin.data.cache.feature_store import FeatureStore, FeatureSubset, open_features
from opsin.data.cache.image_store import Store
from opsin.data.subset import Subset
from opsin.data.types import Indices
from opsin.errors import is_installed
from opsin.models import Network
from opsin.models.fingerprint import digest
from opsin.models.network import as_embedding

VERSION = 2
"""Version in the name of each feature store; raise it if the features of a network change."""

BLOCK, BLOCK_ON_CPU = 64, 32
"""Images per batch, always the same: the features of an image must not depend on the batch size. On a CPU, activations
take the memory of the process."""

LIBRARIES = ("opsin", "timm", "torch", "torchvision")
"""Packages whose modules are identified by their text and by versions: that of torch, and those of `VERSIONED`."""

VERSIONED = ("timm", "torchvision")
"""Packages whose version is a fact of the networks that have modules of them."""

_MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))
"""Attributes that every module has, such as its mode."""

_ADDRESS = re.compile(r" at 0x[0-9a-f]+", re.IGNORECASE)

View = Callable[[Store, Indices], Tensor]


@dataclass(frozen=True)
class Extractor:
    """A network up to one of its steps, in evaluation mode on a device.

    Attributes:
        network: The network.
        steps: The steps whose outputs are returned; several steps are concatenated, as vectors only.
        device: The device.
        context: Function that returns the context of the precision, such as autocast.
        precision: Name of the precision.
        vectors: Whether outputs are vectors: feature maps are averaged over their area.
    """

    network: Network
    steps: tuple[str, ...]
    device: torch.device
    context: Callable[[], AbstractContextManager[Any]]
    precision: str
    vectors: bool = False

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Everything besides the images that determines the features, as plain values."""
        taken = self._modules()
        return {
            "version": VERSION,
            "network": self.network.name,
            "steps": list(self.steps),
            "structure": structure_digest(taken),
            "weights": weights_digest(taken.values()),
            "vectors": self.vectors,
            "precision": self.precision,
            "device": self.device.type,
            "torch": torch.__version__,
            **library_versions(taken.values()),
        }

    def __call__(self, images: Tensor) -> NDArray[np.float32]:
        """Return the outputs for normalized images `(N, C, H, W)`: `(N, D)`, or channels-last maps `(N, H, W, D)`."""
        training = self.network.training
        self.network.to(self.device).eval()
        with torch.inference_mode(), self.context():
            x, after, outputs = images, None, []
            for step in self.steps:
                x, after = self.network.forward_features(x, step, after), step
                outputs.append(as_embedding(x).float() if self.vectors else x.float())
        self.network.train(training)
        features = torch.cat(outputs, dim=1)
        if features.ndim == 4:
            features = features.permute(0, 2, 3, 1)
        return features.cpu().numpy()

    def _modules(self) -> dict[str, nn.Module]:
        steps = self.network.steps()
        names = list(steps)
        return {name: steps[name] for name in names[: names.index(self.steps[-1]) + 1]}


def structure_digest(modules: Mapping[str, nn.Module]) -> str:
    """Return a digest of the layers of some modules by name, and of the source and attributes of the user's classes.

    The source includes the files of the user's functions and constants that these classes may use.
    """
    parts = modules.values()
    texts = [*(f"{name}: {module!r}" for name, module in modules.items()), *own_sources(parts), *own_attributes(parts)]
    return hashlib.blake2b("\n".join(texts).encode(), digest_size=16).hexdigest()


def own_sources(modules: Iterable[nn.Module]) -> list[str]:
    """Return the source of the user's classes among some modules, bases included: their text omits their operations.

    Their operations can call functions and use constants of the user's files, so these files are returned too.
    """
    classes = {base for module in modules for part in module.modules() for base in type(part).__mro__ if _is_own(base)}
    sources = own_files(found.__module__ for found in classes)
    for found in classes:
        with contextlib.suppress(OSError, TypeError):  # a class without a file, such as one of a notebook
            sources.append(inspect.getsource(found))
    return sorted(sources)


def own_files(names: Iterable[str]) -> list[str]:
    """Return the text of the user's files among some Python modules, and of those of the user that they import.

    Args:
        names: Dotted names of imported Python modules.
    """
    waiting, seen, texts = list(names), set[str](), []
    while waiting:
        name = waiting.pop()
        module = sys.modules.get(name)
        file = getattr(module, "__file__", None)
        if name in seen or not file or is_installed(Path(file)):
            continue
        seen.add(name)
        with contextlib.suppress(OSError):
            texts.append(Path(file).read_text(encoding="utf-8", errors="backslashreplace"))
        waiting += {_origin(value) for value in vars(module).values()} - seen
    return texts


def _origin(value: Any) -> str:
    """Return the Python module that an object is, or that defines its class or function; empty if that is unknown."""
    return str(value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None) or "")


def own_attributes(modules: Iterable[nn.Module]) -> list[str]:
    """Return the attributes of the user's parts of some modules, which their text and their weights omit."""
    return [
        f"{path}.{name}: {_described(value)}"
        for module in modules
        for path, part in module.named_modules()
        if _is_own(type(part))
        for name, value in sorted(vars(part).items())
        if name not in _MODULE_ATTRIBUTES
    ]


def _is_own(found: type) -> bool:
    return found.__module__.partition(".")[0] not in LIBRARIES


def _described(value: Any) -> str:
    """Return a value as text: equal for equal values, also in another process."""
    if isinstance(value, np.ndarray):  # the text of a large array omits most of its values
        return f"{value.dtype} {value.shape} {hashlib.blake2b(value.tobytes(), digest_size=16).hexdigest()}"
    return digest(value) if isinstance(value, Tensor) else _ADDRESS.sub("", repr(value))


def library_versions(modules: Iterable[nn.Module]) -> dict[str, str]:
    """Return the versions of the packages in `VERSIONED` that define classes of some modules: their code can change."""
    packages = {type(part).__module__.partition(".")[0] for module in modules for part in module.modules()}
    return {name: importlib.metadata.version(name) for name in VERSIONED if name in packages}


def weights_digest(modules: Iterable[nn.Module]) -> str:
    """Return a digest of all parameters and buffers of some modules."""
    tensors = [f"{name} {digest(tensor)}" for module in modules for name, tensor in _state(module).items()]
    return hashlib.blake2b("\n".join(tensors).encode(), digest_size=16).hexdigest()


def _state(module: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers; a state dict omits the buffers that are not saved."""
    saved: dict[str, Tensor] = module.state_dict()
    return saved | {name: buffer for name, buffer in module.named_buffers() if name not in saved}


def extract(
    subset: Subset,
    extractor: Extractor,
    views: Sequence[View],
    facts: Sequence[dict[str, Any]],
    *,
    cache_dir: Path,
    every_view: bool = False,
    fingerprint: Callable[[Store], str] = lambda store: store.fingerprint,
) -> FeatureSubset:
    """Return the features of a split. Missing ones of the first view are computed now, others when they are read.

    Args:
        subset: The split.
        extractor: The network.
        views: For each view, a function that returns the input `(B, C, H, W)` for some images of a store.
        facts: For each view, everything besides the fingerprint of the images that determines the input.
        cache_dir: The folder of all feature stores.
        every_view: Whether to compute all views now.
        fingerprint: Function that returns the fingerprint of the images of a store.

    Raises:
        UserError: The features cannot be written, or exceed the range of half precision.
    """
    decided = extractor.facts
    block = BLOCK_ON_CPU if extractor.device.type == "cpu" else BLOCK
    shape = extractor(views[0](subset.stores[0], np.zeros(1, np.int64))).shape[1:]

    def computed(view: View, of_view: dict[str, Any]) -> list[FeatureStore]:
        stores = []
        for store, rows in subset.by_store():
            images = hashlib.blake2b(fingerprint(store).encode() + store.kept.tobytes(), digest_size=16).hexdigest()
            features = open_features(cache_dir, {**decided, **of_view, "images": images}, len(store), shape)
            features.compute_missing(store.in_reading_order(rows), block, partial(_compute, extractor, view, store))
            stores.append(features)
        return stores

    extracted = FeatureSubset([partial(computed, *pair) for pair in zip(views, facts, strict=True)], subset.index)
    extracted.compute(len(views) if every_view else 1)
    return extracted


def _compute(extractor: Extractor, view: View, store: Store, rows: Indices) -> NDArray[np.float32]:
    return extractor(view(store, rows))
