"""Private names of torch that Opsin uses, written for torch 2.14.

`tests/models/test_torch_internals.py` fails and names the part that a new version of torch has changed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn
from torch.jit._trace import TracerWarning
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

__all__ = ["TorchDispatchMode", "TracerWarning", "is_compiled", "tree_map", "uncompiled"]


def is_compiled(module: nn.Module) -> bool:
    """Return whether `module.compile()` was called."""
    return module._compiled_call_impl is not None


@contextmanager
def uncompiled(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Run compiled modules uncompiled, because they would compile again for every shape."""
    compiled = [module._compiled_call_impl for module in modules]
    try:
        for module in modules:
            module._compiled_call_impl = None
        yield
    finally:
        for module, call in zip(modules, compiled, strict=True):
            module._compiled_call_impl = call
