"""A context in which a network is in evaluation mode with gradients available, and helpers to use it."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from opsin.errors import UserError
from opsin.models.network import Network
from opsin.models.torch_internals import uncompiled


@contextmanager
def eval_context(network: nn.Module) -> Iterator[Network]:
    """Put a network in `eval()` with gradients enabled, without DDP, `torch.compile` and autocast.

    Compilation is off because it would run again for every shape. The caller may be in `torch.inference_mode()` or
    under autocast. The modes are restored afterwards. Use `torch.autograd.grad`, which sets no gradient on parameters.

    Yields:
        The network; a copy if its parameters were created in inference mode, which autograd does not accept.
    """
    network = _unwrapped(network)
    with torch.inference_mode(False), torch.enable_grad():
        if any(tensor.is_inference() for tensor in [*network.parameters(), *network.buffers()]):
            network = copy.deepcopy(network)
        modules = list(network.modules())
        training = [module.training for module in modules]
        device = next(network.parameters()).device.type
        try:
            network.eval()
            with uncompiled(modules), torch.autocast(device, enabled=False):
                yield network  # type: ignore[misc]
        finally:
            for module, mode in zip(modules, training, strict=True):
                module.training = mode


def _unwrapped(network: nn.Module) -> nn.Module:
    """Return a network without the wrappers of `torch.compile` and data parallelism."""
    while True:
        if isinstance(network, nn.parallel.DistributedDataParallel | nn.DataParallel):
            network = network.module
        elif isinstance(inner := getattr(network, "_orig_mod", None), nn.Module):
            network = inner
        else:
            return network


def as_input(network: nn.Module, images: Tensor) -> Tensor:
    """Return images `(N, C, H, W)` on the device and in the precision of the network, usable by autograd."""
    parameter = next(network.parameters())
    return images.detach().to(parameter.device, parameter.dtype).clone()


def as_targets(network: nn.Module, targets: Tensor, images: Tensor) -> Tensor:
    """Return class indices `(N,)`, int64, on the device of the network.

    Args:
        network: The network.
        targets: The class indices.
        images: Input of the network `(N, C, H, W)`; the output for the first image gives the number of classes.

    Raises:
        UserError: There is not one class per image, or one does not exist; a negative index would count from the last.
    """
    count, last = len(images), 0
    if count:
        with torch.no_grad():
            last = class_scores(network(as_input(network, images[:1]))).shape[1] - 1
    if tuple(targets.shape) != (count,) or (targets < 0).any() or (targets > last).any():
        raise UserError(f"targets must be the index of a class for each of {count} images, 0 to {last}, not {targets}")
    return targets.detach().to(next(network.parameters()).device, torch.int64).clone()


def class_scores(logits: Tensor) -> Tensor:
    """Return a score per class `(N, C)`: the logits; a single logit z, the log-odds of class 1, becomes (-z, z).

    (0, z) gives the same probabilities, but a zero gradient for class 0.
    """
    return torch.cat([-logits, logits], dim=1) if logits.shape[1] == 1 else logits


def stages_with_maps(network: Network, image: Tensor) -> dict[str, tuple[int, int, int]]:
    """Return the stages whose output for an image `(1, C, H, W)` is a map of more than one position.

    Returns:
        (channels, height, width) of the map by stage.
    """
    found = {}
    output, before = image, None
    with torch.no_grad():
        for name in network.stages:
            output = network.forward_features(output, name, before)
            before = name
            if is_map(network, network.stages[name], output, image) and output.shape[2] * output.shape[3] > 1:
                _, channels, height, width = output.shape
                found[name] = (channels, height, width)
    return found


def is_map(network: Network, module: nn.Module, output: Tensor, images: Tensor) -> bool:
    """Return whether an output is a map `(N, C, h, w)` with the aspect ratio of the images `(N, C, H, W)`.

    The aspect ratio excludes most outputs with channels last; `maps_channels_last` of the network excludes all, except
    for those of convolutions. Convolutions without padding remove a few positions per side, which changes the aspect
    ratio slightly.

    Args:
        network: The network.
        module: The stage or layer.
        output: Its output.
        images: The input of the network.
    """
    if network.maps_channels_last and not isinstance(module, nn.Conv2d):
        return False
    height, width = images.shape[2:]
    return output.ndim == 4 and abs(output.shape[2] * width - output.shape[3] * height) <= 8 * max(height, width)


def resolve_stage(network: Network, images: Tensor, stage: str | None) -> str:
    """Return the given stage, or the last one with maps if it is None.

    Raises:
        UserError: The stage does not exist or has no maps.
    """
    found = stages_with_maps(network, images[:1])
    names = ", ".join(found)
    if not found:
        raise UserError(
            f"{network.name} has no stage with maps (N, C, h, w), which Grad-CAM needs: "
            "use integrated_gradients or occlusion"
        )
    if stage is not None and stage not in network.stages:
        raise UserError(f"{network.name} has no stage {stage!r}; the stages with maps are {names}")
    if stage is not None and stage not in found:
        raise UserError(f"stage {stage!r} of {network.name} has no maps (N, C, h, w); the stages with maps are {names}")
    return stage or list(found)[-1]
