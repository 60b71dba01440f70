"""Where in an image a decision comes from: class activation maps, integrated gradients, occlusion."""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opsin.errors import UserError
from opsin.interpretability.eval_context import as_input, as_targets, chosen_stage, class_scores, eval_context
from opsin.models.network import Network

Method = Literal["gradcam", "cam", "integrated_gradients", "occlusion"]

METHODS: tuple[Method, ...] = get_args(Method)

BLOCK = 32
"""How many images are in memory at a time, unless somebody says otherwise."""


class ChannelMap(NamedTuple):
    """One channel's part in a Grad-CAM.

    Attributes:
        channel: Its number in the stage.
        weight: By how much the class's score rises when all of the channel rises by one: may be negative.
        map: What the channel sees, `(H, W)` float32 in [0, 1], at the image's size.
    """

    channel: int
    weight: float
    map: Tensor


def attribute(network: nn.Module, images: Tensor, targets: Tensor, method: str, stage: str | None = None) -> Tensor:
    """A map per image `(N, H, W)` in [0, 1], float32 on the CPU, of what speaks for a class.

    Args:
        network: Whatever its mode, device and what of it is frozen; it is left as it was.
        images: `(N, C, H, W)`, as the network takes them.
        targets: The classes that are asked about, `(N,)`.
        method: One of `METHODS`.
        stage: For Grad-CAM, whose maps; None: the last.

    Raises:
        UserError: There is no such method or stage, or it does not fit this network.
    """
    if method == "gradcam":
        return gradcam(network, images, targets, stage)
    if method not in METHODS:
        raise UserError(f"{method!r} is no way to attribute a decision: take {', '.join(METHODS)}")
    if stage is not None:
        raise UserError(f"stage={stage} chooses the maps of Grad-CAM; {method} has no choice of stage")
    ways = {"cam": cam, "integrated_gradients": integrated_gradients, "occlusion": occlusion}
    return ways[method](network, images, targets)


def gradcam(
    network: nn.Module, images: Tensor, targets: Tensor, stage: str | None = None, *, block: int = BLOCK
) -> Tensor:
    """Where a stage sees what speaks for a class: Grad-CAM (Selvaraju et al., arXiv:1610.02391, section 3).

    A channel weighs as much as the class's score rises with it, on average over its places; the channels' weighted
    sum is cut off below zero, brought to the image's size and divided by its maximum. A map of zeros says that
    nothing the stage sees speaks for the class. It is what captum's `LayerGradCam` gives, but only what comes after
    the stage is differentiated: that needs no hooks and a fraction of the memory, and frozen stages change nothing.

    Args:
        network: A `Network`.
        images: `(N, C, H, W)`, as the network takes them.
        targets: The classes that are asked about, `(N,)`.
        stage: Whose maps; None: the last stage that has maps of more than one place.
        block: Images in memory at a time.

    Returns:
        `(N, H, W)` in [0, 1], float32, on the CPU.

    Raises:
        UserError: There is no such stage, or it has no maps.
    """

    def of(network: Network, images: Tensor, targets: Tensor) -> Tensor:
        maps, gradients = _maps_and_gradients(network, images, targets, chosen_stage(network, images, stage))
        return torch.einsum("nc,nchw->nhw", gradients.mean((2, 3)), maps)

    return _in_blocks(of, network, images, targets, block)


def channel_maps(
    network: nn.Module, image: Tensor, target: int, stage: str | None = None, top: int = 8
) -> list[ChannelMap]:
    """The channels that weigh most in the Grad-CAM of an image, the heaviest first.

    Args:
        network: A `Network`.
        image: `(C, H, W)`, as the network takes it.
        target: The class that is asked about.
        stage: Whose channels; None: the last stage with maps.
        top: How many, at most.

    Raises:
        UserError: There is no such stage, or it has no maps.
    """
    with eval_context(network) as still:
        images, targets = as_input(still, image[None]), as_targets(still, torch.tensor([target]))
        maps, gradients = _maps_and_gradients(still, images, targets, chosen_stage(still, images, stage))
        weights = gradients[0].mean((1, 2)).float().cpu()
        heaviest = weights.argsort(descending=True, stable=True)[:top].tolist()
        seen = _unit(maps[0].float().cpu()[heaviest], (image.shape[1], image.shape[2]))
    return [ChannelMap(channel, float(weights[channel]), map_) for channel, map_ in zip(heaviest, seen, strict=True)]


def cam(network: nn.Module, images: Tensor, targets: Tensor, *, block: int = BLOCK) -> Tensor:
    """The share of each place in a class's logit: class activation maps (Zhou et al., arXiv:1512.04150, section 2).

    Exact where the head averages the last stage's maps and weighs the averages in one linear layer: a logit is then
    the mean of its map, plus the bias. That is not taken from the head's parts, but worked out on the images.

    Args:
        network: A `Network` with such a head.
        images: `(N, C, H, W)`, as the network takes them.
        targets: The classes that are asked about, `(N,)`.
        block: Images in memory at a time.

    Returns:
        `(N, H, W)` in [0, 1], float32, on the CPU; cut off below zero, brought to size and scaled as in `gradcam`.

    Raises:
        UserError: The head is another.
    """
    return _in_blocks(_cam, network, images, targets, block)


def _cam(network: Network, images: Tensor, targets: Tensor) -> Tensor:
    last = list(network.stages)[-1]
    linear = [layer for layer in network.head.modules() if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        maps = network.forward_features(images)
        if len(linear) == 1 and maps.ndim == 4 and maps.shape[1] == linear[0].in_features:
            logits = network.forward(maps.clone(), after=last)
            if torch.allclose(linear[0](maps.mean((2, 3))), logits, rtol=1e-3, atol=1e-4 * float(logits.abs().max())):
                weight = class_scores(linear[0].weight.T).T[targets]  # of one logit, the first class's are negative
                return torch.einsum("nc,nchw->nhw", weight, maps)
    raise UserError(
        f"CAM is exact for a head that averages the maps of the last stage and has one linear layer; {network.name}'s "
        "has more than that: take gradcam"
    )


def integrated_gradients(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    steps: int = 50,
    baseline: Tensor | None = None,
    block: int = BLOCK,
) -> Tensor:
    """What each pixel adds to a class's score, on the way from a picture that shows nothing (arXiv:1703.01365).

    What the pixels add sums up to the difference of the scores (Sundararajan et al., section 3, completeness). Shown
    is what speaks for the class: the sum over the colours, cut off below zero. The most glaring pixel in a hundred
    counts as full, as a few pixels would leave the others black.

    Args:
        network: Images to logits; need not be a `Network`.
        images: `(N, C, H, W)`, as the network takes them.
        targets: The classes that are asked about, `(N,)`.
        steps: Places on the way (Gauss-Legendre).
        baseline: The picture that shows nothing, `(C, H, W)` as the network takes it; None: zeros, which are the
            mean colour of the data where images are normalised by it, and black where they are not.
        block: Images in memory at a time.

    Returns:
        `(N, H, W)` in [0, 1], float32, on the CPU.
    """
    from captum.attr import IntegratedGradients

    def of(network: Network, images: Tensor, targets: Tensor) -> Tensor:
        way = IntegratedGradients(_scores(network))
        start = torch.zeros_like(images) if baseline is None else as_input(network, baseline).expand_as(images)
        given = way.attribute(images, start, targets, n_steps=steps, internal_batch_size=max(block, len(images)))
        total: Tensor = given.detach().sum(1)
        return total

    return _in_blocks(of, network, images, targets, block, full=0.99)


def occlusion(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    window: int | None = None,
    stride: int | None = None,
    block: int = BLOCK,
) -> Tensor:
    """By how much a class's score falls where a square is covered (Zeiler and Fergus, arXiv:1311.2901, section 4.2).

    The square is covered with zeros: the mean colour of the data where images are normalised by it. Where squares
    overlap, a pixel gets their mean.

    Args:
        network: Images to logits; need not be a `Network`.
        images: `(N, C, H, W)`, as the network takes them.
        targets: The classes that are asked about, `(N,)`.
        window: Side of the square in pixels; None: a fifth of the image's shorter side.
        stride: By how many pixels it moves; None: half its side.
        block: Images in memory at a time.

    Returns:
        `(N, H, W)` in [0, 1], float32, on the CPU.

    Raises:
        UserError: The square is larger than the image, or the stride than the square.
    """
    from captum.attr import Occlusion

    side = min(images.shape[2:])
    window = max(2, round(side / 5)) if window is None else window
    stride = max(1, window // 2) if stride is None else stride
    if not 1 <= stride <= window <= side:
        raise UserError(
            f"occlusion with window={window} and stride={stride} on images of side {side}: "
            "take 1 <= stride <= window <= side"
        )

    def of(network: Network, images: Tensor, targets: Tensor) -> Tensor:
        shape, moves = (images.shape[1], window, window), (images.shape[1], stride, stride)
        many = max(1, block // len(images))
        with torch.no_grad():
            falls = Occlusion(_scores(network)).attribute(
                images, shape, moves, target=targets, perturbations_per_eval=many
            )
        mean: Tensor = falls.mean(1)
        return mean

    return _in_blocks(of, network, images, targets, block)


def _maps_and_gradients(network: Network, images: Tensor, targets: Tensor, stage: str) -> tuple[Tensor, Tensor]:
    """What a stage makes of images `(N, C, h, w)`, and how the classes' scores rise with it, of the same shape."""
    with torch.no_grad():
        maps = network.forward_features(images, stage)
    maps = maps.clone().requires_grad_()
    # A clone goes on: what comes next may overwrite its input, as a ReLU in place does.
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
    block: int,
    full: float = 1.0,
) -> Tensor:
    size = (images.shape[2], images.shape[3])
    with eval_context(network) as still:
        heats = [torch.zeros(0, *size)]
        for start in range(0, len(images), block):
            some = slice(start, start + block)
            heat = of(still, as_input(still, images[some]), as_targets(still, targets[some]))
            heats.append(_unit(heat.float().cpu(), size, full))
        return torch.cat(heats)


def _unit(heat: Tensor, size: tuple[int, int], full: float = 1.0) -> Tensor:
    """Maps `(N, h, w)` cut off below zero, brought to (height, width), and each divided by its maximum.

    Args:
        heat: The maps.
        size: Of the image.
        full: The quantile that counts as the maximum.
    """
    heat = heat.clamp(min=0)
    if tuple(heat.shape[1:]) != size:
        heat = F.interpolate(heat[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    values = heat.flatten(1)
    top = values.kthvalue(max(1, round(full * values.shape[1])), dim=1).values
    top = torch.where(top > 0, top, values.amax(1))
    return (heat / top.clamp(min=torch.finfo(torch.float32).tiny)[:, None, None]).clamp(max=1)
