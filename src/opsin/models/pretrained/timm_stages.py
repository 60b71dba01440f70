"""Split a network of timm into named stages, by the names of its modules.

The networks of timm have similar but not identical structures, so `opsin.models.pretrained.timm_parts` checks the
parts.
"""

import copy
import re

from torch import Tensor, nn

from opsin.models.network import members, sequential
from opsin.models.pretrained.regroup import NetworkParts

_STAGE = re.compile(r"(layer|stage|s)(\d+)")
_CONTAINERS = {"stages": "stage", "layers": "layer", "blocks": "block"}


def timm_stages(original: nn.Module) -> tuple[dict[str, nn.Module], list[tuple[str, nn.Module]]] | None:
    """Return the stages of a network by name, and the modules after them; None if it has no such structure.

    Args:
        original: The network of timm.
    """
    children = [(key, part) for key, part in members(original).items() if not _does_nothing(part)]
    numbers = [number for number, (key, _) in enumerate(children) if _STAGE.fullmatch(key) or key in _CONTAINERS]
    if not numbers or numbers != list(range(numbers[0], numbers[-1] + 1)):  # other modules run between the stages
        return None
    stages: dict[str, nn.Module] = {"stem": sequential(**dict(children[: numbers[0]]))}
    if hasattr(original, "_pos_embed"):
        names = list(members(original))
        needed = names[: names.index(children[numbers[0]][0])]
        stages["stem"] = Steps(original, needed, ("patch_embed", "_pos_embed", "patch_drop", "norm_pre"))
    for key, part in children[numbers[0] : numbers[-1] + 1]:
        stages |= _stages(key, part)
    return stages, children[numbers[-1] + 1 :]


def by_children(original: nn.Module) -> NetworkParts | None:
    """Return stem, stages, pooling and the dense layer; None if the network has no such structure."""
    found = timm_stages(original)
    linear = original.get_classifier()  # type: ignore[operator]
    if found is None or not isinstance(linear, nn.Linear):
        return None
    stages, after = found[0], _opened(found[1])
    pool = next((number for number, (key, _) in enumerate(after) if key == "global_pool"), None)
    if pool is None and hasattr(original, "pool"):  # vision transformers: after `norm`, or before `fc_norm`
        pool = int(bool(after) and after[0][0] == "norm")
        after = [(key, part) for key, part in after if key != "attn_pool"]
        after.insert(pool, ("pool", Steps(original, ["attn_pool"], ("pool",))))
    last = next((number for number, (_, part) in enumerate(after) if part is linear), None)
    if pool is None or last is None:
        return None
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
        inner = [(k, p) for k, p in members(part).items() if not _does_nothing(p)]
        opened += inner if any(k == "global_pool" for k, _ in inner) else [(key, part)]
    return opened


def _stages(key: str, part: nn.Module) -> dict[str, nn.Module]:
    if match := _STAGE.fullmatch(key):
        return {f"{'stage' if match[1] == 's' else match[1]}{match[2]}": part}
    inner = members(part).values()
    noun = _CONTAINERS[key]
    if noun == "block" and all(isinstance(member, nn.Sequential) for member in inner):
        noun = "stage"  # nested blocks, as in EfficientNet
    return {f"{noun}{number}": member for number, member in enumerate(inner, start=1)}


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
