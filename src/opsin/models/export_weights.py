"""Export the backbone of a network as one file of weights."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from opsin.models.load_weights import is_backbone
from opsin.models.network import Network
from opsin.runs.atomic import write_atomically


def save_backbone(network: Network, target: Path, facts: Mapping[str, str], *, half: bool = True) -> int:
    """Write a network without the layers of its logits as a safetensors file for `model.weights`, atomically.

    Args:
        network: The network with its weights.
        target: The file to write. Its folder is created if needed.
        facts: Metadata for the header of the file.
        half: Store float32 tensors in half precision where they are in its range. Loading converts them to float32.

    Returns:
        The number of tensors written.
    """
    from safetensors.torch import save

    state = {key: tensor.contiguous() for key, tensor in network.state_dict().items() if is_backbone(network, key)}
    tensors = {key: _halved(t) if half else t for key, t in state.items()}
    write_atomically(target, save(tensors, metadata=dict(facts)))
    return len(state)


def _halved(tensor: Tensor) -> Tensor:
    halved = tensor.half() if tensor.dtype == torch.float32 else tensor
    return halved if torch.isfinite(halved).all() else tensor
