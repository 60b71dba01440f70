"""Export the weights of a network under the key names of the library that it comes from."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from opsin.models.load_weights import is_backbone
from opsin.models.network import Network
from opsin.models.weights import StateDict
from opsin.runs.atomic import write_atomically

WeightsFormat = Literal["safetensors", "state_dict"]


def library_state(network: Network, *, backbone: bool = False, half: bool = False) -> StateDict:
    """Return the tensors of a network under the keys of its library: `conv1.weight` instead of `stages.stem.conv1...`.

    `load_state_dict` of torchvision and timm takes them without renaming. Tensors that the library does not have, such
    as those of a dense head, and networks of Opsin keep the keys of Opsin.

    Args:
        network: The network with its weights.
        backbone: Leave out the layers of the logits.
        half: Store float32 tensors in half precision where they are in its range. Loading converts them to float32.
    """
    state = {key: tensor for key, tensor in network.state_dict().items() if not backbone or is_backbone(network, key)}
    return {
        network.original_keys.get(key, key): (_halved(tensor) if half else tensor).contiguous()
        for key, tensor in state.items()
    }


def save_weights(state: StateDict, target: Path, kind: WeightsFormat, facts: Mapping[str, str]) -> None:
    """Write tensors to a file atomically, which `model.weights` takes as well.

    Args:
        state: The result of `library_state`.
        target: The file to write. Its folder is created if needed.
        kind: `safetensors`, or `state_dict` for a file that `torch.load` reads.
        facts: Metadata for the header of a safetensors file; a state dict has none.
    """
    if kind == "safetensors":
        from safetensors.torch import save

        write_atomically(target, save(_separate(state), metadata=dict(facts)))
        return
    content = io.BytesIO()
    torch.save(state, content)
    write_atomically(target, content.getvalue())


def _halved(tensor: Tensor) -> Tensor:
    halved = tensor.half() if tensor.dtype == torch.float32 else tensor
    return halved if torch.isfinite(halved).all() else tensor


def _separate(state: StateDict) -> StateDict:
    """Return tensors that share no memory, as those of tied layers do; safetensors refuses to write such tensors."""
    seen: set[int] = set()
    separate: StateDict = {}
    for key, tensor in state.items():
        memory = tensor.untyped_storage().data_ptr()
        separate[key] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return separate
