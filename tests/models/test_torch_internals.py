"""Private names of torch: if a new version changes one, a test fails and names it."""

import importlib

import pytest
import torch
from torch import nn

from opsin.models.torch_internals import is_compiled, uncompiled

NAMES = [
    ("torch.nn", "Module._compiled_call_impl"),
    ("torch.jit._trace", "TracerWarning"),
    ("torch.utils._python_dispatch", "TorchDispatchMode.__torch_dispatch__"),
    ("torch.utils._pytree", "tree_map"),
    ("torch.nn.parallel", "DistributedDataParallel._remove_autograd_hooks"),
    ("torch.utils.tensorboard", "SummaryWriter._get_file_writer"),
]


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_the_private_names_exist(module: str, name: str) -> None:
    found = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part, NAMES)
        assert found is not NAMES, (
            f"torch {torch.__version__} has no {module}.{name}: opsin.models.torch_internals uses it"
        )


@pytest.mark.slow
def test_modules_run_uncompiled_only_inside_the_context() -> None:
    network = nn.Sequential(nn.Linear(2, 2))
    assert not is_compiled(network)
    network.compile()
    call = network._compiled_call_impl
    with uncompiled([*network.modules()]):
        assert not is_compiled(network)
    assert network._compiled_call_impl is call is not None
