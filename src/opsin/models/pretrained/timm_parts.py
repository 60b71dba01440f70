"""Divide a network of timm into stages and a head, and check that they compute what the network computes.

Four divisions are tried, from fine to coarse:

1. stem, stages, pooling and the dense layer, by the names of the modules;
2. the same stages, and `forward_head` of the network as pooling;
3. `forward_features` as the only stage, `body`, and `forward_head` as pooling;
4. both as the stage `body`, for networks whose features are not one tensor.

The first one that returns exactly the pooled features of the network for an image of noise is used. The last layer of
the network becomes the last layer of the head if it returns exactly the logits; if not, the head has a new layer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from opsin.errors import UserError
from opsin.models.network import members, sequential
from opsin.models.pretrained.regroup import NetworkParts
from opsin.models.pretrained.timm_modules import Body, MeanLogits, PointwiseClassifier, PooledBody, Pooling, classifiers
from opsin.models.pretrained.timm_stages import by_children, timm_stages
from opsin.models.shapes import feature_shape


@dataclass(frozen=True)
class _Reference:
    """The output of a network for an image, and the names of the children that run.

    Attributes:
        image: The image `(1, C, H, W)`.
        pooled: The pooled features `(1, D)`.
        logits: The logits `(1, num_logits)`.
        in_features: Children that run in `forward_features`.
        in_head: Children that run in `forward_head` alone.
        idle: Children that do not run as modules; their methods may be called.
    """

    image: Tensor
    pooled: Tensor
    logits: Tensor
    in_features: frozenset[str]
    in_head: frozenset[str]
    idle: frozenset[str]


def timm_parts(name: str, original: nn.Module, image_size: tuple[int, int], in_channels: int) -> NetworkParts:
    """Return the parts of a network of timm; they share all tensors with the original, which remains usable.

    Args:
        name: The name of the network, for messages.
        original: The network.
        image_size: (height, width) of the images, in pixels.
        in_channels: Channels of the images.

    Raises:
        UserError: The network has no vector of features per image, or the images are too small.
    """
    original.eval()
    try:
        expected = _reference(original, (in_channels, *image_size))
    except Exception as error:  # the code of timm may raise anything
        raise _does_not_run(name, original, image_size, in_channels, error) from error
    if not isinstance(expected.pooled, Tensor) or expected.pooled.ndim != 2:
        raise _refusal(name, "its features are not one vector for each image")
    try:
        for parts in _divisions(original, expected):
            if _is_exact(parts, expected):
                layers = (parts.linear, *_last_layers(original))
                fitting = (layer for layer in layers if _returns_logits(layer, expected))
                channels_last = getattr(original, "output_fmt", None) == "NHWC"
                return replace(parts, linear=next(fitting, None), maps_channels_last=channels_last)
    finally:
        original.train()
    raise _refusal(name, "its features cannot be computed by a part of its modules")


def _divisions(original: nn.Module, expected: _Reference) -> Iterator[NetworkParts]:
    """Return the divisions to try, from fine to coarse."""
    if found := by_children(original):
        yield found
    if found := _stages_and_pooling(original, expected):
        yield found
    everything = replace(expected, in_features=expected.in_features | expected.idle)  # parts without a forward call
    for reference in (expected, everything):
        yield _body_and_pooling(original, reference)
    for reference in (expected, everything):
        yield _pooled_body(original, reference)


def _does_not_run(
    name: str, original: nn.Module, image_size: tuple[int, int], in_channels: int, error: Exception
) -> UserError:
    """Return the error for images that the network does not take."""
    try:
        feature_shape(name, {"network": original}, in_channels, image_size)
    except UserError as too_small:
        return too_small
    except Exception:  # not only the size is wrong
        pass
    size = "x".join(map(str, image_size))
    side = original.pretrained_cfg["input_size"][-1]  # type: ignore[index]
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return UserError(
        f"{name} of timm does not run on images of {size} pixels ({reason}): set datamodule.image_size={side}, "
        "the size of the images for which it was made"
    )


def _refusal(name: str, reason: str) -> UserError:
    return UserError(
        f"model.name: {name} of timm cannot be used, because {reason}. Opsin needs networks that return one vector "
        "of features for each image, which a dense layer turns into logits; use another model, such as resnet26, "
        "regnety_002, mobilenetv3_small_050, convnext_atto or vit_tiny_patch16_224"
    )


def _reference(original: Any, shape: tuple[int, int, int]) -> _Reference:
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        with _names_called(original) as in_features:
            features = original.forward_features(image)
        with _names_called(original) as in_head:
            pooled = original.forward_head(features, pre_logits=True)
        with _names_called(original) as in_all:
            logits = original(image)
    return _Reference(
        image,
        pooled,
        logits,
        frozenset(in_features),
        frozenset(in_head - in_features),
        frozenset(members(original).keys() - in_features - in_head - in_all),
    )


@contextmanager
def _names_called(original: nn.Module) -> Iterator[set[str]]:
    """Collect the names of the children of a network that run, or of which a submodule runs."""
    called: set[str] = set()
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: called.add(name))
        for name, child in members(original).items()
        for module in child.modules()
    ]
    try:
        yield called
    finally:
        for handle in handles:
            handle.remove()


def _is_exact(parts: NetworkParts, expected: _Reference) -> bool:
    """Return whether the stages and the neck return the pooled features of the network."""
    x: Any = expected.image
    steps = (*parts.stages.values(), *parts.neck.values())
    try:
        for step in steps:
            x = _evaluated(step, x)
    except Exception:  # modules called outside their network raise various errors
        return False
    finally:
        for step in steps:
            step.train()
    return isinstance(x, Tensor) and torch.equal(x, expected.pooled)


def _returns_logits(layer: nn.Module | None, expected: _Reference) -> bool:
    """Return whether a layer returns the logits of the network for its pooled features."""
    try:
        return layer is not None and torch.equal(_evaluated(layer, expected.pooled), expected.logits)
    except Exception:  # it needs more than the pooled features
        return False


def _evaluated(step: nn.Module, x: Tensor) -> Any:
    with torch.no_grad():
        return step.eval()(x)


def _stages_and_pooling(original: nn.Module, expected: _Reference) -> NetworkParts | None:
    found = timm_stages(original)
    if found is None:
        return None
    stages, after = found
    if extra := {key: part for key, part in after if key in expected.in_features}:
        stages["norm" if set(extra) == {"norm"} else "head_conv"] = sequential(**extra)
    return _with_pooling(stages, original, expected)


def _body_and_pooling(original: nn.Module, expected: _Reference) -> NetworkParts:
    return _with_pooling({"body": Body(original, expected.in_features)}, original, expected)


def _with_pooling(stages: dict[str, nn.Module], original: nn.Module, expected: _Reference) -> NetworkParts:
    """Return stages and `forward_head` as pooling; pooling with parameters is the last stage, so it can be frozen."""
    pool = {"pool": Pooling(original, expected.in_head)}
    neck = {} if pool["pool"].state_dict() else pool
    return NetworkParts(stages | (pool if not neck else {}), neck)


def _pooled_body(original: nn.Module, expected: _Reference) -> NetworkParts:
    body = PooledBody(original, expected.in_features | expected.in_head)
    return NetworkParts({"body": body}, {})


def _last_layers(original: nn.Module) -> Iterator[nn.Module]:
    """Return modules that may be the layer from pooled features to logits."""
    layers = classifiers(original)
    if len(layers) > 1:
        yield MeanLogits(layers)
        return
    yield PointwiseClassifier(layers[0]) if isinstance(layers[0], nn.Conv2d) else layers[0]
    path = next((name for name, part in original.named_modules() if part is layers[0]), "")
    while path := path.rpartition(".")[0]:  # a norm and a dense layer, as in EfficientViT
        yield original.get_submodule(path)
