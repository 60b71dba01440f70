"""The layers of a network: kernel, output, parameters, multiply-adds and memory in float32."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor, nn

BYTES = 4
"""Bytes of a float32 value."""

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class LayerSummary:
    """A layer that runs.

    Attributes:
        name: Name of the stage or head, then of the layer in it.
        kind: Class of the layer.
        kernel: (height, width) of the kernel of a convolution or of pooling; None for other layers.
        output_shape: Shape of the output for one image.
        parameters: Number of parameters; 0 if the layer has run before.
        mult_adds: Multiply-adds for one image, see `StageSummary`.
    """

    name: str
    kind: str
    kernel: tuple[int, ...] | None
    output_shape: tuple[int, ...]
    parameters: int
    mult_adds: int

    @property
    def megabytes(self) -> float:
        """Memory of the parameters in float32, in units of 10^6 bytes."""
        return self.parameters * BYTES / 1e6

    @property
    def output_megabytes(self) -> float:
        """Memory of the output for one image in float32, in units of 10^6 bytes."""
        return prod(self.output_shape) * BYTES / 1e6


@dataclass(frozen=True)
class Memory:
    """Memory of a network for one image in float32, in units of 10^6 bytes, as torchinfo counts it.

    Attributes:
        images: The image.
        parameters: The parameters.
        activations: The outputs of layers with parameters.
    """

    images: float
    parameters: float
    activations: float

    @property
    def training(self) -> float:
        """Image, parameters, and activations with their gradients."""
        return self.images + self.parameters + 2 * self.activations

    def __str__(self) -> str:
        return (
            f"float32 memory for one image: input {self.images:,.2f} MB, parameters {self.parameters:,.2f} MB, "
            f"activations {self.activations:,.2f} MB ({2 * self.activations:,.2f} MB with gradients), "
            f"in all {self.training:,.2f} MB in training"
        )


def layers_of(name: str, part: nn.Module, x: Tensor) -> list[LayerSummary]:
    """Return the layers of a stage or head in the order in which they run.

    Parameters that belong to no layer that runs, such as positions of a transformer, are the last entry.

    Args:
        name: Name of the part.
        part: The part, in evaluation mode.
        x: Its input for one image.
    """
    import torchinfo

    names = {id(module): ".".join(filter(None, (name, inner))) for inner, module in part.named_modules()}
    infos = torchinfo.summary(part, input_data=x, device=x.device, verbose=0).summary_list
    layers = [_layer(names[info.layer_id], info) for info in infos if _is_layer(info.module)]
    rest = sum(parameter.numel() for parameter in part.parameters()) - sum(layer.parameters for layer in layers)
    if rest:
        layers.append(LayerSummary(f"{name} (other)", "parameters", None, (), rest, 0))
    return layers


def memory_of(layers: Iterable[LayerSummary], input_shape: Sequence[int]) -> Memory:
    """Return the memory of a network for one image.

    Args:
        layers: Its layers.
        input_shape: Shape of the image, `(C, H, W)`.
    """
    layers = list(layers)
    activations = sum(layer.output_megabytes for layer in layers if layer.parameters and layer.output_shape)
    return Memory(prod(input_shape) * BYTES / 1e6, sum(layer.megabytes for layer in layers), activations)


def layer_cells(layers: Iterable[LayerSummary]) -> list[tuple[str, ...]]:
    """Return the header and one row per layer as text."""
    header = ("layer", "kind", "kernel", "output", "parameters", "MB", "multiply-adds", "output MB")
    return [header, *map(_cells, layers)]


def _cells(layer: LayerSummary) -> tuple[str, ...]:
    counts = (f"{layer.parameters:,}", f"{layer.megabytes:,.3f}") if layer.parameters else ("", "")
    return (
        layer.name,
        layer.kind,
        "x".join(map(str, layer.kernel or ())),
        "x".join(map(str, layer.output_shape)),
        *counts,
        f"{layer.mult_adds:,}" if layer.mult_adds else "",
        f"{layer.output_megabytes:,.3f}" if layer.output_shape else "",
    )


def _is_layer(module: nn.Module) -> bool:
    """Return whether a module has no children, or all parameters itself, as timm's BatchNormAct2d has."""
    children = list(module.children())
    own = next(module.parameters(recurse=False), None) is not None
    return not children or (own and not any(True for child in children for _ in child.parameters()))


def _layer(name: str, info: Any) -> LayerSummary:
    kernel = info.kernel_size
    return LayerSummary(
        name=name,
        kind=info.class_name,
        kernel=(kernel, kernel) if isinstance(kernel, int) else kernel and tuple(kernel),
        output_shape=tuple(info.output_size[1:]),
        parameters=0 if info.is_recursive else info.num_params,
        mult_adds=info.macs * _uncounted_positions(info),
    )


def _uncounted_positions(info: Any) -> int:
    """Return the number of positions of the output, such as tokens or pixels, if torchinfo counts a single one.

    It counts all positions only of layers with "Conv" in the name of their class.
    """
    if isinstance(info.module, nn.Linear):
        return prod(info.output_size[1:-1])
    if isinstance(info.module, _CONVOLUTIONS) and "Conv" not in info.class_name:
        return prod(info.output_size[2:])
    return 1
