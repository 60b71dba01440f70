"""Attribution of a class to image regions: class activation maps, integrated gradients, occlusion."""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opsin.errors import UserError
from opsin.interpretability.eval_context import as_input, as_targets, class_scores, eval_context, resolve_stage
from opsin.models.network import Network

Method = Literal["gradcam", "cam", "integrated_gradients", "occlusion"]

METHODS: tuple[Method, ...] = get_args(Method)

BLOCK = 32
"""Number of images per batch."""


class ChannelMap(NamedTuple):
    """The contribution of one channel to a Grad-CAM.

    Attributes:
        channel: Its index in the stage.
        weight: Gradient of the class score with respect to the channel, averaged over positions; can be negative.
        map: Activations of the channel, `(H, W)` float32 in [0, 1], at the size of the image.
    """

    channel: int
    weight: float
    map: Tensor


def attribute(network: nn.Module, images: Tensor, targets: Tensor, method: str, stage: str | None = None) -> Tensor:
    """Return an attribution map per image `(N, H, W)` in [0, 1], float32, on the CPU.

    Args:
        network: The network, in any mode and on any device; it does not change.
        images: Input of the network `(N, C, H, W)`.
        targets: The classes to explain, `(N,)`.
        method: One of `METHODS`.
        stage: The stage for Grad-CAM; None for the last stage with maps (see `stages_with_maps`).

    Raises:
        UserError: The method or stage does not exist, or does not fit the network.
    """
    if method == "gradcam":
        return gradcam(network, images, targets, stage)
    if method not in METHODS:
        raise UserError(f"unknown attribution method {method!r}: use one of {', '.join(METHODS)}")
    if stage is not None:
        raise UserError(f"{method} does not accept a stage (got {stage}); only gradcam does")
    ways = {"cam": cam, "integrated_gradients": integrated_gradients, "occlusion": occlusion}
    return ways[method](network, images, targets)


def gradcam(network: nn.Module, images: Tensor, targets: Tensor, stage: str | None = None) -> Tensor:
    """Return Grad-CAM maps of a stage (Selvaraju et al., arXiv:1610.02391, section 3).

    The weight of a channel is the gradient of the class score, averaged over positions. The weighted sum of the
    channels is clipped at zero, resized to the image and divided by its maximum. A map of zeros means that no region
    increases the score of the class. The result equals `LayerGradCam` of captum, but only the layers after the stage
    are differentiated, which needs no hooks and less memory, and works with frozen stages.

    Args:
        network: A `Network`.
        images: Input of the network `(N, C, H, W)`.
        targets: The classes to explain, `(N,)`.
        stage: The stage; None for the last stage with maps (see `stages_with_maps`).

    Returns:
        `(N, H, W)` in [0, 1], float32, on the CPU.

    Raises:
        UserError: The stage does not exist or has no maps.
    """

    def of(network: Network, images: Tensor, targets: Tensor) -> Tensor:
        maps, gradients = _maps_and_gradients(network, images, targets, resolve_stage(network, images, stage))
        return torch.einsum("nc,nchw->nhw", gradients.mean((2, 3)), maps)

    return _in_blocks(of, network, images, targets)


def channel_maps(
    network: nn.Module, image: Tensor, target: int, stage: str | None = None, top: int = 8
) -> list[ChannelMap]:
    """Return the channels with the largest weights in the Grad-CAM of an image, largest first.

    Args:
        network: A `Network`.
        image: Input of the network `(C, H, W)`.
        target: The class to explain.
        stage: The stage; None for the last stage with maps (see `stages_with_maps`).
        top: Maximum number of channels.

    Raises:
        UserError: The stage does not exist or has no maps.
    """
    with eval_context(network) as model:
        images, targets = as_input(model, image[None]), as_targets(model, torch.tensor([target]), image[None])
        maps, gradients = _maps_and_gradients(model, images, targets, resolve_stage(model, images, stage))
        weights = gradients[0].mean((1, 2)).float().cpu()
        heaviest = weights.argsort(descending=True, stable=True)[:top].tolist()
        seen = _unit(maps[0].float().cpu()[heaviest], (image.shape[1], image.shape[2]))
    return [ChannelMap(channel, float(weights[channel]), map_) for channel, map_ in zip(heaviest, seen, strict=True)]


def cam(network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Return class activation maps (Zhou et al., arXiv:1512.04150, section 2).

    The maps are exact if the head averages the maps of the last stage and applies one linear layer: a logit is then
    the mean of its map plus the bias. This is verified numerically on the images.

    Args:
        network: A `Network` with such a head.
        images: Input of the network `(N, C, H, W)`.
        targets: The classes to explain, `(N,)`.

    Returns:
        `(N, H, W)` in [0, 1], float32, on the CPU; clipped, resized and scaled as in `gradcam`.

    Raises:
        UserError: The network has another kind of head.
    """
    return _in_blocks(_cam, network, images, targets)


def _cam(network: Network, images: Tensor, targets: Tensor) -> Tensor:
    last = list(network.stages)[-1]
    linear = [layer for layer in network.head.modules() if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        maps = network.forward_features(images)
        if len(linear) == 1 and maps.ndim == 4 and maps.shape[1] == linear[0].in_features:
            logits = network.forward(maps.clone(), after=last)
            if torch.allclose(linear[0](maps.mean((2, 3))), logits, rtol=1e-3, atol=1e-4 * float(logits.abs().max())):
                weight = class_scores(linear[0].weight.T).T[targets]  # negated for class 0 of a single logit
                return torch.einsum("nc,nchw->nhw", weight, maps)
    raise UserError(
        f"CAM needs a head that averages the maps of the last stage and has one linear layer, and the head of "
        f"{network.name} differs: use gradcam"
    )


def integrated_gradients(network: nn.Module, images: Tensor, targets: Tensor, *, steps: int = 50) -> Tensor:
    """Return integrated gradients (Sundararajan et al., arXiv:1703.01365).

    The baseline is an image of zeros: the mean color of the data if images are normalized, and black otherwise. The
    attributions of all pixels sum to the difference of the scores (section 3, completeness). The map is the sum over
    the channels, clipped at zero and divided by its 99 % quantile, because a few pixels are much larger.

    Args:
        network: Any module from images to logits.
        images: Input of the network `(N, C, H, W)`.
        targets: The classes to explain, `(N,)`.
        steps: Integration steps (Gauss-Legendre).

    Returns:
        `(N, H, W)` in [0, 1], float32, on the CPU.
    """
    from captum.attr import IntegratedGradients

    def of(network: Network, images: Tensor, targets: Tensor) -> Tensor:
        way = IntegratedGradients(_scores(network))
        given = way.attribute(images, torch.zeros_like(images), targets, n_steps=steps, internal_batch_size=BLOCK)
        total: Tensor = given.detach().sum(1)
        return total

    return _in_blocks(of, network, images, targets, full=0.99)


def occlusion(
    network: nn.Module, images: Tensor, targets: Tensor, *, window: int | None = None, stride: int | None = None
) -> Tensor:
    """Return occlusion maps: the decrease of the class score for each covered square.

    Negative values become 0, and a map is divided by its maximum. The score of a class is its logit; for a single logit
    z, the scores are -z and z (`opsin.interpretability.eval_context.class_scores`).

    The square is filled with zeros, the mean color of the data if images are normalized. A pixel gets the mean over the
    squares that cover it (Zeiler and Fergus, arXiv:1311.2901, section 4.2).

    Args:
        network: Any module from images to logits.
        images: Input of the network `(N, C, H, W)`.
        targets: The classes to explain, `(N,)`.
        window: Side of the square in pixels; None for a fifth of the shorter side of the image.
        stride: Step of the square in pixels; None for half its side.

    Returns:
        `(N, H, W)` in [0, 1], float32, on the CPU.

    Raises:
        UserError: The square is larger than the image, or the stride is larger than the square.
    """
    from captum.attr import Occlusion

    side = min(images.shape[2:])
    window = max(2, round(side / 5)) if window is None else window
    stride = max(1, window // 2) if stride is None else stride
    if not 1 <= stride <= window <= side:
        raise UserError(
            f"occlusion with window={window} and stride={stride} on images of side {side}: "
            "1 <= stride <= window <= side must hold"
        )

    def of(network: Network, images: Tensor, targets: Tensor) -> Tensor:
        shape, moves = (images.shape[1], window, window), (images.shape[1], stride, stride)
        with torch.no_grad():
            falls = Occlusion(_scores(network)).attribute(
                images, shape, moves, target=targets, perturbations_per_eval=BLOCK // len(images)
            )
        mean: Tensor = falls.mean(1)
        return mean

    return _in_blocks(of, network, images, targets)


def _maps_and_gradients(network: Network, images: Tensor, targets: Tensor, stage: str) -> tuple[Tensor, Tensor]:
    """Return the maps of a stage `(N, C, h, w)` and the gradients of the class scores with respect to them."""
    with torch.no_grad():
        maps = network.forward_features(images, stage)
    maps = maps.clone().requires_grad_()
    # A clone, because an in-place ReLU overwrites its input.
    scores = class_scores(network.forward(maps.clone(), after=stage))
    (gradients,) = torch.autograd.grad(scores.gather(1, targets[:, None]).sum(), maps)
    return maps.detach(), gradients


def _scores(network: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda images: class_scores(network(images))


def _in_blocks(
    of: Callable[[Network, Tensor, Tensor], Tensor],
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    full: float = 1.0,
) -> Tensor:
    size = (images.shape[2], images.shape[3])
    with eval_context(network) as model:
        classes = as_targets(model, targets, images)
        heats = [torch.zeros(0, *size)]
        for start in range(0, len(images), BLOCK):
            some = slice(start, start + BLOCK)
            heat = of(model, as_input(model, images[some]), classes[some])
            heats.append(_unit(heat.float().cpu(), size, full))
        return torch.cat(heats)


def _unit(heat: Tensor, size: tuple[int, int], full: float = 1.0) -> Tensor:
    """Return maps `(N, h, w)` clipped at zero, resized, and divided by their maximum.

    Args:
        heat: The maps.
        size: (height, width) of the image.
        full: The quantile used as the maximum.
    """
    heat = heat.clamp(min=0)
    if tuple(heat.shape[1:]) != size:
        heat = F.interpolate(heat[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    values = heat.flatten(1)
    top = values.kthvalue(max(1, round(full * values.shape[1])), dim=1).values
    top = torch.where(top > 0, top, values.amax(1))
    return (heat / top.clamp(min=torch.finfo(torch.float32).tiny)[:, None, None]).clamp(max=1)
