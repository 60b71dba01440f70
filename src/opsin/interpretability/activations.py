"""What the stages and layers of a network make of images, and which of its filters never speak."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from opsin.errors import UserError
from opsin.interpretability.eval_context import as_input, eval_context
from opsin.models import Network

BLOCK = 32
"""Images that go through the network together."""

RECTIFIERS = (nn.ReLU, nn.ReLU6)
"""What gives exact zeros; a channel of them that is zero everywhere is dead."""

Heard = Callable[[str, Tensor], None]


@dataclass(frozen=True)
class Dead:
    """Channels of one rectified layer that are zero wherever one looks.

    Attributes:
        channels: Which ones, ascending.
        of: How many channels the layer has.
    """

    channels: tuple[int, ...]
    of: int


def activations(network: Network, images: Tensor, names: Sequence[str] | None = None) -> dict[str, Tensor]:
    """What stages and layers make of images, as the network evaluates.

    Args:
        network: Left as it is; on any device, frozen, compiled or training.
        images: Its input `(N, C, H, W)`, on any device.
        names: Stages (`block1`) or layers in them (`block1.conv`); None: every stage, and in it every convolution and
            every rectifier whose output is a map.

    Returns:
        float32 `(N, C, h, w)` on the CPU by name, in the order in which they run. A layer that runs more than once in a
        pass, such as the one ReLU of a residual block, gives its last output.

    Raises:
        UserError: There is no such stage or layer, or what it gives is no map.
    """
    found: dict[str, list[Tensor]] = {}
    with eval_context(network) as still, torch.no_grad():
        modules = layers(still, names)
        for block in torch.split(images, BLOCK):
            last: dict[str, Tensor] = {}

            def hear(name: str, output: Tensor, last: dict[str, Tensor] = last) -> None:
                last[name] = output.float().cpu().clone()  # at once: the ReLU that follows may write into it

            with listening(modules, hear):
                still.forward_features(as_input(still, block))
            for name, output in last.items():
                found.setdefault(name, []).append(output)
        maps = {name: torch.cat(found[name]) for name in modules if name in found and found[name][0].ndim == 4}
        for name in names or ():
            if name not in maps:
                raise UserError(f"{still.name}: {name} gives no map; these layers do: {', '.join(layers(still))}")
    return maps


def dead(network: Network, images: Tensor) -> dict[str, Dead]:
    """The channels of every rectified layer that are zero at every place of every image.

    On a few images a channel may just have nothing to say; take some hundreds. What a dead channel has learned is
    lost: no gradient reaches it any more.

    Args:
        network: Left as it is.
        images: Its input `(N, C, H, W)`; they run in blocks, so thousands will do.

    Returns:
        By the name of the layer, in the order they run; empty for a network without ReLU or ReLU6. What a layer that
        runs more than once gives is taken together.
    """
    largest: dict[str, Tensor] = {}

    def hear(name: str, output: Tensor) -> None:
        if output.ndim == 4:
            values = output.amax(dim=(0, 2, 3)).float().cpu()
            largest[name] = torch.maximum(largest[name], values) if name in largest else values

    with eval_context(network) as still, torch.no_grad():
        rectified = {name: part for name, part in layers(still).items() if isinstance(part, RECTIFIERS)}
        with listening(rectified, hear):
            for block in torch.split(images, BLOCK):
                still.forward_features(as_input(still, block))
    return {
        name: Dead(tuple(torch.nonzero(largest[name] == 0).flatten().tolist()), len(largest[name]))
        for name in rectified
        if name in largest
    }


def layers(network: Network, names: Sequence[str] | None = None) -> dict[str, nn.Module]:
    """Stages, and in them convolutions and rectifiers, by name in the order in which they give their output.

    Args:
        network: Of any kind.
        names: Some of them, or other modules in stages; None: all.

    Raises:
        UserError: There is no such stage or layer.
    """
    every = {name: module for name, module in network.stages.named_modules() if name}
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
def listening(modules: Mapping[str, nn.Module], hear: Heard) -> Iterator[None]:
    """Tell `hear` the name and the output of each module whenever it runs."""

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _module, _inputs, output: hear(name, output)

    with ExitStack() as hooks:
        for name, module in modules.items():
            hooks.callback(module.register_forward_hook(hook(name)).remove)
        yield


def place_of(network: nn.Module) -> torch.device:
    """The device that a network is on."""
    return next((tensor.device for tensor in network.parameters()), torch.device("cpu"))


def _example(network: Network) -> str:
    names = [name for name in layers(network) if "." in name]
    return f"{names[0]}" if names else "block1.conv"
