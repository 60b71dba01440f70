"""A network looked into: held still, with gradients to be had, and left as it was found."""

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
    """Within, the network is in `eval()`, runs as plain PyTorch and in its own precision, and gradients can be had.

    It is taken out of DDP and `torch.compile`, of which the latter would compile once more for every shape; the
    caller may be in `torch.inference_mode()` or under autocast. Modes are put back afterwards. No parameter gets a
    gradient from what is done with `torch.autograd.grad`.

    Yields:
        The network itself; a copy only where its parameters were made in inference mode, which autograd refuses.
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
    """A network without what `torch.compile(network)` and data parallelism put around it."""
    while True:
        if isinstance(network, nn.parallel.DistributedDataParallel | nn.DataParallel):
            network = network.module
        elif isinstance(inner := getattr(network, "_orig_mod", None), nn.Module):
            network = inner
        else:
            return network


def as_input(network: nn.Module, images: Tensor) -> Tensor:
    """Images `(N, C, H, W)` on the network's device and in its precision, fit for autograd, whatever made them."""
    parameter = next(network.parameters())
    return images.detach().to(parameter.device, parameter.dtype).clone()


def as_targets(network: nn.Module, targets: Tensor) -> Tensor:
    """Class indices `(N,)`, int64, on the network's device."""
    return targets.detach().to(next(network.parameters()).device, torch.int64).clone()


def class_scores(logits: Tensor) -> Tensor:
    """What speaks for each class `(N, C)`: its logit; one logit z, the log-odds of the second class, becomes (-z, z).

    Not (0, z), which gives the same probabilities: nothing would ever speak for the first class.
    """
    return torch.cat([-logits, logits], dim=1) if logits.shape[1] == 1 else logits


def stages_with_maps(network: Network, image: Tensor) -> dict[str, tuple[int, int, int]]:
    """The stages that make maps of an image `(1, C, H, W)`, with (channels, height, width) of each, in their order.

    A map has more than one place, and the image's proportions: tokens are none, nor is what has its channels last.
    """
    height, width = image.shape[2:]
    found = {}
    before = None
    with torch.no_grad():
        for name in network.stages:
            image = network.forward_features(image, name, before)
            before = name
            if image.ndim == 4 and image.shape[2] * image.shape[3] > 1:
                _, channels, h, w = image.shape
                # Convolutions without padding take a few places off both sides, which changes proportions a little.
                if abs(h * width - w * height) <= 8 * max(height, width):
                    found[name] = (channels, h, w)
    return found


def chosen_stage(network: Network, images: Tensor, stage: str | None) -> str:
    """The stage that is meant; None: the last with maps of more than one place.

    Raises:
        UserError: There is no such stage, or it has no maps.
    """
    found = stages_with_maps(network, images[:1])
    names = ", ".join(found)
    if not found:
        raise UserError(
            f"{network.name} has no stage whose output are maps (N, C, h, w), so there is nothing to weigh: "
            "take integrated_gradients or occlusion"
        )
    if stage is not None and stage not in network.stages:
        raise UserError(f"{network.name} has no stage {stage!r}; those with maps are {names}")
    if stage is not None and stage not in found:
        raise UserError(f"stage {stage!r} of {network.name} makes no maps (N, C, h, w); those with maps are {names}")
    return stage or list(found)[-1]
