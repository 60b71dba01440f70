"""Split a network of timm into named stages, by the names of its modules.

The networks of timm have similar but not identical structures, so the parts are checked: run in sequence, they must
return exactly the same features as the original.
"""

import copy
import re
from typing import Any

import torch
from torch import Tensor, nn

from opsin.errors import UserError
from opsin.models.network import sequential
from opsin.models.pretrained.regroup import NetworkParts
from opsin.models.shapes import feature_shape

_STAGE = re.compile(r"(layer|stage|s)(\d+)")
_CONTAINERS = {"stages": "stage", "layers": "layer", "blocks": "block"}


def timm_parts(name: str, original: nn.Module, image_size: tuple[int, int], in_channels: int = 3) -> NetworkParts:
    """Return the parts of a network of timm; they share all tensors with the original, which remains usable.

    Args:
        name: The name of the network, for messages.
        original: The network, with a dense layer for its logits.
        image_size: (height, width) of the images, in pixels.
        in_channels: Channels of the images.

    Raises:
        UserError: The network is not a sequence of stem, stages, pooling and a dense layer, or the images are too
            small.
    """
    parts = _split(name, original)
    _check(name, original, parts, (in_channels, *image_size))
    return parts


def _split(name: str, original: nn.Module) -> NetworkParts:
    children = [(key, part) for key, part in original.named_children() if not _does_nothing(part)]
    numbers = [number for number, (key, _) in enumerate(children) if _STAGE.fullmatch(key) or key in _CONTAINERS]
    linear = original.get_classifier()  # type: ignore[operator]
    if not numbers or not isinstance(linear, nn.Linear):
        raise _not_sequential(name)
    if numbers != list(range(numbers[0], numbers[-1] + 1)):  # other modules run between the stages
        raise _not_sequential(name)
    before, after = children[: numbers[0]], _opened(children[numbers[-1] + 1 :])
    stages: dict[str, nn.Module] = {"stem": sequential(**dict(before))}
    if hasattr(original, "_pos_embed"):
        names = [key for key, _ in original.named_children()]
        needed = names[: names.index(children[numbers[0]][0])]
        stages["stem"] = Steps(original, needed, ("patch_embed", "_pos_embed", "patch_drop", "norm_pre"))
    for key, part in children[numbers[0] : numbers[-1] + 1]:
        stages |= _stages(key, part)

    pool = next((number for number, (key, _) in enumerate(after) if key == "global_pool"), None)
    if pool is None and hasattr(original, "pool"):  # vision transformers: after `norm`, or before `fc_norm`
        pool = int(bool(after) and after[0][0] == "norm")
        after = [(key, part) for key, part in after if key != "attn_pool"]
        after.insert(pool, ("pool", Steps(original, ["attn_pool"], ("pool",))))
    last = next((number for number, (_, part) in enumerate(after) if part is linear), None)
    if pool is None or last is None:
        raise _not_sequential(name)
    if extra := dict(after[:pool]):
        stages["norm" if set(extra) == {"norm"} else "head_conv"] = sequential(**extra)
    neck = {key.removeprefix("global_"): part for key, part in after[pool:last]}
    return NetworkParts(stages, neck, linear)


def _does_nothing(part: nn.Module) -> bool:
    return isinstance(part, nn.Identity) or (isinstance(part, nn.Dropout) and part.p == 0)


def _opened(children: list[tuple[str, nn.Module]]) -> list[tuple[str, nn.Module]]:
    """Return the modules with a last head that pools replaced by the modules in it."""
    opened = []
    for key, part in children:
        inner = [(k, p) for k, p in part.named_children() if not _does_nothing(p)]
        opened += inner if any(k == "global_pool" for k, _ in inner) else [(key, part)]
    return opened


def _stages(key: str, part: nn.Module) -> dict[str, nn.Module]:
    if match := _STAGE.fullmatch(key):
        return {f"{'stage' if match[1] == 's' else match[1]}{match[2]}": part}
    members = list(part.children())
    noun = _CONTAINERS[key]
    if noun == "block" and all(isinstance(member, nn.Sequential) for member in members):
        noun = "stage"  # nested blocks, as in EfficientNet
    return {f"{noun}{number}": member for number, member in enumerate(members, start=1)}


def _check(name: str, original: nn.Module, parts: NetworkParts, shape: tuple[int, int, int]) -> None:
    """Check that the parts return the features of the original for one image of noise.

    Raises:
        UserError: The features differ, or the images are too small.
    """
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    steps = {**parts.stages, **parts.neck}
    original.eval()
    try:
        feature_shape(name, steps, shape[0], shape[1:])
        with torch.no_grad():
            features: Any = image
            for part in steps.values():
                features = part.eval()(features)
            theirs = original.forward_head(original.forward_features(image), pre_logits=True)  # type: ignore[operator]
    except UserError:
        raise
    except Exception as error:  # modules called outside their network raise various errors
        raise _not_sequential(name) from error
    if not (isinstance(features, Tensor) and torch.equal(features, theirs)):
        raise _not_sequential(name)
    for part in (original, *steps.values()):
        part.train()


def _not_sequential(name: str) -> UserError:
    return UserError(
        f"model.name: {name} of timm is not a sequence of stem, stages, pooling and a dense layer, so it cannot be "
        "divided into named stages; use another model of its family, or one of these (resnet26, regnety_002, "
        "mobilenetv3_small_050, convnext_atto, vit_tiny_patch16_224)"
    )


class Steps(nn.Module):
    """A module that runs methods of a network, without the modules that they do not need.

    Args:
        original: The network; it does not change, and its tensors are shared.
        keep: The submodules that the methods need.
        calls: The methods and submodules to call in sequence.
    """

    def __init__(self, original: nn.Module, keep: list[str], calls: tuple[str, ...]) -> None:
        super().__init__()
        rest = copy.copy(original)
        rest._modules = {name: part if name in keep else None for name, part in original._modules.items()}
        rest._buffers = dict(original._buffers)
        embeds = "_pos_embed" in calls  # tokens and positions are parameters of the network itself
        rest._parameters = {name: value if embeds else None for name, value in original._parameters.items()}
        self.rest = rest
        self.calls = calls

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the last step."""
        for call in self.calls:
            x = getattr(self.rest, call)(x)
        return x
