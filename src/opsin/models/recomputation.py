"""Gradient checkpointing: compute the activations of a stage again in the backward pass instead of keeping them.

Chen et al. 2016, "Training deep nets with sublinear memory cost", arXiv:1604.06174.
"""

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def recomputed(stage: nn.Module, x: Tensor) -> Tensor:
    """Return the output of a stage in training; of its activations, only the input `x` is kept.

    Gradients are those of a plain call: random layers draw the same numbers again, and running statistics of BatchNorm
    are updated once.
    """
    output: Tensor = checkpoint(
        stage,
        x,
        use_reentrant=False,
        preserve_rng_state=True,
        context_fn=lambda: (contextlib.nullcontext(), _buffers_kept(stage)),
    )
    return output


@contextlib.contextmanager
def _buffers_kept(stage: nn.Module) -> Iterator[None]:
    """Let the modules of a stage that train write into copies of their buffers."""
    training = [module for module in stage.modules() if module.training]
    kept = [(module, *found) for module in training for found in module.named_buffers(recurse=False)]
    try:
        for module, name, buffer in kept:
            setattr(module, name, buffer.clone())
        yield
    finally:
        for module, name, buffer in kept:
            setattr(module, name, buffer)
