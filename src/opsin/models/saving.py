"""A network's backbone as one file of weights, to be handed on."""

from collections.abc import Mapping
from pathlib import Path

import torch

from opsin.models.loading import without_wrappers
from opsin.models.weights import read_state_dict


def save_backbone(checkpoint: Path, target: Path, facts: Mapping[str, str], *, half: bool = True) -> int:
    """Write the stages of a checkpoint's network as a safetensors file that `model.weights` takes.

    The head stays behind: it is of the classes that it was trained on.

    Args:
        checkpoint: Of a run.
        target: The file to write.
        facts: What to say of the weights in the file's header.
        half: Store numbers in half precision; they are loaded as float32 again.

    Returns:
        The number of tensors written.

    Raises:
        UserError: The checkpoint cannot be read.
    """
    from safetensors.torch import save_file

    state = without_wrappers(read_state_dict(checkpoint))
    stages = {
        key: (tensor.half() if half and tensor.dtype == torch.float32 else tensor).contiguous()
        for key, tensor in state.items()
        if key.startswith("stages.")
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(stages, target, metadata=dict(facts))
    return len(stages)
