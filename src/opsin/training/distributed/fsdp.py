"""Training with the weights, their gradients and the optimizer's state divided among the devices (FSDP)."""

import copy
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from opsin.errors import UserError
from opsin.models.torch_internals import is_compiled, tree_map
from opsin.training.lightning_patches import torch_optimizer


class Sharded(DDPStrategy):
    """Each device holds a part of every weight while the network trains, and gathers those of a step when it runs.

    A step is a stage of the network or a part of its head. Gradients are averaged and divided likewise, and so is what
    the optimizer keeps, which is most of the memory (Rajbhandari et al., "ZeRO", arXiv:1910.02054; torch's
    `fully_shard`). A copy of the network trains: before and after, and in a test, `network` is whole. Checkpoints are
    those of one process, in one file, and either can go on with those of the other. BatchNorm normalises each device's
    share of a batch; what it has gathered on the first is what is validated and saved, as with DDP.
    """

    def setup(self, trainer: L.Trainer) -> None:
        """Divide the network, and make its optimizers.

        Raises:
            UserError: something about the run needs the whole network in one place.
        """
        if trainer.state.fn != TrainerFn.FITTING:
            super().setup(trainer)
            return
        module = _module(trainer)
        refuse(trainer, module)
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        self.precision_plugin.convert_module(module)
        self._whole = _network(module)
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        module.network = divide(copy.deepcopy(self._whole), mesh)
        module.to(self.root_device)
        self.setup_optimizers(trainer)
        for optimizer in self.optimizers:
            unfuse(optimizer)
        self.setup_precision_plugin()

    def on_validation_start(self) -> None:
        """Let every process measure with the first one's buffers, such as BatchNorm's statistics."""
        assert self.lightning_module is not None
        for buffer in _network(self.lightning_module).buffers():
            torch.distributed.broadcast(buffer, 0)

    def on_train_end(self) -> None:
        """Let the whole network be what was learned."""
        assert self.lightning_module is not None
        self._whole.load_state_dict(gathered(_network(self.lightning_module).state_dict()))

    def teardown(self) -> None:
        """Put the whole network back."""
        if self.lightning_module is not None and hasattr(self, "_whole"):
            self.lightning_module.network = self._whole
            self.optimizers = []
            del self._whole
        super().teardown()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The module's tensors, whole; every process has to ask."""
        return gathered(super().lightning_module_state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer's state, whole; every process has to ask."""
        return gathered(super().optimizer_state(optimizer))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Divide the state of the optimizers as their parameters are."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            bare = torch_optimizer(optimizer)
            parameters = [parameter for group in bare.param_groups for parameter in group["params"]]
            kept = {
                number: {name: divided_like(value, parameters[number]) for name, value in values.items()}
                for number, values in state["state"].items()
            }
            bare.load_state_dict({**state, "state": kept})
            unfuse(bare)


def is_sharded(trainer: L.Trainer) -> bool:
    """Whether no process has the whole network while it trains."""
    return isinstance(trainer.strategy, Sharded)


def divide(network: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Divide a network in place, step by step; `network.steps()` tells them."""
    for parameter in network.parameters():
        parameter.data = parameter.data.contiguous()  # channels last cannot be divided
    steps: list[nn.Module] = [*network.steps().values(), network.auxiliary]  # type: ignore[operator,list-item]
    for step in steps:
        if step is not None and next(step.parameters(), None) is not None:
            fully_shard(step, mesh=mesh)
    fully_shard(network, mesh=mesh)
    return network


def whole(tensor: Tensor) -> Tensor:
    """A tensor as it would be on one device; every process has to ask for one that is divided."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state with its tensors whole, on the CPU where they were divided."""
    gather = lambda value: whole(value).cpu() if isinstance(value, DTensor) else value  # noqa: E731
    return dict(tree_map(gather, dict(state)))


def divided_like(value: Any, parameter: Tensor) -> Any:
    """A tensor of an optimizer's state, divided as its parameter is where it has the same shape."""
    if not isinstance(value, Tensor) or not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


def unfuse(optimizer: Optimizer) -> None:
    """Let an optimizer step without its fused kernel: not all of them can be run on tensors that are divided."""
    for group in optimizer.param_groups:
        if group.get("fused"):
            group["fused"] = False


def refuse(trainer: L.Trainer, module: L.LightningModule) -> None:
    """Refuse what would need the whole network while it trains.

    Raises:
        UserError: names what, and the way out.
    """
    averages = any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    reasons = {
        "callbacks.ema averages the whole network": averages,
        "model.teacher teaches a layer beside it": getattr(module, "distillation", None) is not None,
        "trainer.compile compiles it as a whole": is_compiled(_network(module)),
        "trainer.precision=16 scales all gradients alike": getattr(trainer.precision_plugin, "scaler", None)
        is not None,
    }
    for reason, applies in reasons.items():
        if applies:
            raise UserError(f"trainer.strategy=fsdp divides the network, but {reason}: leave that out, or take ddp")


def _module(trainer: L.Trainer) -> L.LightningModule:
    module = trainer.lightning_module
    assert module is not None
    return module


def _network(module: L.LightningModule) -> nn.Module:
    network = module.network
    assert isinstance(network, nn.Module)
    return network
