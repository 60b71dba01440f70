"""Activations of stages and layers, and dead channels."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from opsin.errors import UserError
from opsin.interpretability.eval_context import as_input, eval_context, is_map, stages_with_maps
from opsin.models import Network

BLOCK = 32
"""Images per batch."""

RECTIFIERS = (nn.ReLU, nn.ReLU6)
"""Activation layers with exact zeros: a channel that is zero everywhere is dead."""

OnOutput = Callable[[str, Tensor], None]


@dataclass(frozen=True)
class DeadChannels:
    """Channels of one rectified layer that are zero at all positions of all images.

    Attributes:
        channels: Their indices, ascending.
        total: Number of channels of the layer.
    """

    channels: tuple[int, ...]
    total: int


def activations(network: Network, images: Tensor, names: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Return the activations of stages and layers in evaluation mode.

    Args:
        network: The network, on any device and in any mode; it does not change.
        images: Input `(N, C, H, W)`, on any device.
        names: Stages (`block1`) or layers in them (`block1.conv`); None for all stages and all their convolutions
            and rectifiers whose output is a map.

    Returns:
        float32 `(N, C, h, w)` on the CPU by name, in execution order. For a layer that runs more than once, such as the
        shared ReLU of a residual block, the last output in the stage.

    Raises:
        UserError: A stage or layer does not exist, or its output is not a map.
    """
    found: dict[str, list[Tensor]] = {}
    with eval_context(network) as model, torch.no_grad():
        modules = layers(model, names)
        for block in torch.split(images, BLOCK):
            last: dict[str, Tensor] = {}

            def record(name: str, output: Tensor, last: dict[str, Tensor] = last) -> None:
                last[name] = output.float().cpu().clone()  # copied, because an in-place ReLU may follow

            _run(model, block, modules, record)
            for name, output in last.items():
                found.setdefault(name, []).append(output)
        maps = {
            name: torch.cat(found[name])
            for name, module in modules.items()
            if name in found and is_map(model, module, found[name][0], images)
        }
        for name in names or ():
            if name not in maps:
                known = ", ".join(stages_with_maps(model, as_input(model, images[:1]))) or "none"
                raise UserError(f"{model.name}: the output of {name} is not a map; the stages with maps are {known}")
    return maps


def dead_channels(network: Network, images: Tensor) -> dict[str, DeadChannels]:
    """Return the channels of every rectified layer that are zero at all positions of all images.

    Use some hundreds of images: on a few, a channel can be zero by chance. A dead channel receives no gradient.

    Args:
        network: The network; it does not change.
        images: Input `(N, C, H, W)`, run in batches.

    Returns:
        Dead channels by layer name, in execution order; empty for a network without ReLU or ReLU6, and for one whose
        stages have channels last. All outputs of a layer that runs more than once in its stage are combined by the
        index of the channel.
    """
    largest: dict[str, Tensor] = {}

    def record(name: str, output: Tensor) -> None:
        if output.ndim == 4 and not model.maps_channels_last:
            values = output.amax(dim=(0, 2, 3)).float().cpu()
            largest[name] = pad_sequence([values, largest.get(name, values)], True).amax(0)  # widths may differ

    with eval_context(network) as model, torch.no_grad():
        rectified = {name: part for name, part in layers(model).items() if isinstance(part, RECTIFIERS)}
        for block in torch.split(images, BLOCK):
            _run(model, block, rectified, record)
    return {
        name: DeadChannels(tuple(torch.nonzero(largest[name] == 0).flatten().tolist()), len(largest[name]))
        for name in rectified
        if name in largest
    }


def layers(network: Network, names: Sequence[str] | None = None) -> dict[str, nn.Module]:
    """Return stages and the convolutions and rectifiers in them, by name in execution order.

    Args:
        network: The network.
        names: Names of stages or of any modules in them; None for all.

    Raises:
        UserError: A stage or layer does not exist.
    """
    every = {name: module for name, module in network.stages.named_modules(remove_duplicate=False) if name}
    if names is not None:
        for name in names:
            if name not in every:
                raise UserError(
                    f"{network.name} has no stage or layer {name!r}: its stages are {', '.join(network.stages)}, and "
                    f"layers are named as in {_example(network)}"
                )
        return {name: every[name] for name in names}
    chosen: dict[str, nn.Module] = {}
    for stage, module in network.stages.items():
        inner = module.named_modules(prefix=stage)
        chosen |= {name: part for name, part in inner if name != stage and isinstance(part, (nn.Conv2d, *RECTIFIERS))}
        chosen[stage] = module
    return chosen


@contextmanager
def output_hooks(modules: Mapping[str, nn.Module], record: OnOutput) -> Iterator[None]:
    """Call `record` with the name and the output of each module whenever it runs."""

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _module, _inputs, output: record(name, output)

    with ExitStack() as hooks:
        for name, module in modules.items():
            hooks.callback(module.register_forward_hook(hook(name)).remove)
        yield


def _run(network: Network, images: Tensor, modules: Mapping[str, nn.Module], record: OnOutput) -> None:
    """Run the stages, and record each layer while its own stage runs: stages may share a layer."""
    x, before = as_input(network, images), None
    for stage in network.stages:
        inside = {name: module for name, module in modules.items() if name.partition(".")[0] == stage}
        with output_hooks(inside, record):
            x = network.forward_features(x, stage, before)
        before = stage


def device_of(network: nn.Module) -> torch.device:
    """Return the device of a network."""
    return next((tensor.device for tensor in network.parameters()), torch.device("cpu"))


def _example(network: Network) -> str:
    names = [name for name in layers(network) if "." in name]
    return names[0] if names else "block1.conv"
