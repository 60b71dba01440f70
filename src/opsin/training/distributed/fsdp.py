"""FSDP: weights, gradients and optimizer state are sharded among the devices."""

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
    """Each device holds a shard of every weight and gathers the weights of a step when the step runs.

    A step is a stage of the network or a part of its head. Gradients and optimizer state are sharded too, which saves
    most of the memory (Rajbhandari et al., "ZeRO", arXiv:1910.02054; torch's `fully_shard`). A copy of the network
    trains: before and after training, and in a test, `network` is unsharded. Checkpoints have the format of a single
    process, and each kind of run can resume from those of the other. BatchNorm normalizes the local batch of each
    device; validation and checkpoints use the statistics of the first device, as with DDP.
    """

    def setup(self, trainer: L.Trainer) -> None:
        """Shard the network and create its optimizers.

        Raises:
            UserError: A part of the run needs the unsharded network.
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
        module.network = shard(copy.deepcopy(self._whole), mesh)
        module.to(self.root_device)
        self.setup_optimizers(trainer)
        for optimizer in self.optimizers:
            unfuse(optimizer)
        self.setup_precision_plugin()

    def on_validation_start(self) -> None:
        """Broadcast the buffers of the first process, such as the statistics of BatchNorm."""
        assert self.lightning_module is not None
        for buffer in _network(self.lightning_module).buffers():
            torch.distributed.broadcast(buffer, 0)

    def on_train_end(self) -> None:
        """Copy the trained weights to the unsharded network."""
        assert self.lightning_module is not None
        self._whole.load_state_dict(unsharded(_network(self.lightning_module).state_dict()))

    def teardown(self) -> None:
        """Restore the unsharded network."""
        if self.lightning_module is not None and hasattr(self, "_whole"):
            self.lightning_module.network = self._whole
            self.optimizers = []
            del self._whole
        super().teardown()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the unsharded tensors of the module; every process must call this."""
        return unsharded(super().lightning_module_state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the unsharded state of an optimizer; every process must call this."""
        return unsharded(super().optimizer_state(optimizer))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Shard the state of the optimizers like their parameters."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            bare = torch_optimizer(optimizer)
            parameters = [parameter for group in bare.param_groups for parameter in group["params"]]
            kept = {
                number: {name: shard_like(value, parameters[number]) for name, value in values.items()}
                for number, values in state["state"].items()
            }
            bare.load_state_dict({**state, "state": kept})
            unfuse(bare)


def is_sharded(trainer: L.Trainer) -> bool:
    """Return whether the network is sharded while it trains."""
    return isinstance(trainer.strategy, Sharded)


def shard(network: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Shard a network in place, each step of `network.steps()` on its own."""
    for parameter in network.parameters():
        parameter.data = parameter.data.contiguous()  # channels-last tensors cannot be sharded
    steps: list[nn.Module] = [*network.steps().values(), network.auxiliary]  # type: ignore[operator,list-item]
    for step in dict.fromkeys(steps):  # a module can be several steps
        if step is not None and next(step.parameters(), None) is not None:
            fully_shard(step, mesh=mesh)
    fully_shard(network, mesh=mesh)
    return network


def full_tensor(tensor: Tensor) -> Tensor:
    """Return a tensor unsharded; every process must call this for a sharded tensor."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def unsharded(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state with unsharded tensors; those that were sharded are on the CPU."""
    gather = lambda value: full_tensor(value).cpu() if isinstance(value, DTensor) else value  # noqa: E731
    return dict(tree_map(gather, dict(state)))


def shard_like(value: Any, parameter: Tensor) -> Any:
    """Return a tensor of an optimizer state, sharded like its parameter if the shapes are equal."""
    if not isinstance(value, Tensor) or not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


def unfuse(optimizer: Optimizer) -> None:
    """Switch off the fused kernel of an optimizer: not all of them support sharded tensors."""
    for group in optimizer.param_groups:
        if group.get("fused"):
            group["fused"] = False


def refuse(trainer: L.Trainer, module: L.LightningModule) -> None:
    """Check that no part of the run needs the unsharded network during training.

    Raises:
        UserError: Names the part and what to do about it.
    """
    averages = any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    reasons = {
        "callbacks.ema averages the whole network": averages,
        "model.teacher trains a layer outside it": getattr(module, "distillation", None) is not None,
        "trainer.compile compiles it as a whole": is_compiled(_network(module)),
        "trainer.precision=16 scales all gradients alike": getattr(trainer.precision_plugin, "scaler", None)
        is not None,
    }
    for reason, applies in reasons.items():
        if applies:
            raise UserError(f"trainer.strategy=fsdp shards the network, but {reason}; remove that, or use ddp")


def _module(trainer: L.Trainer) -> L.LightningModule:
    module = trainer.lightning_module
    assert module is not None
    return module


def _network(module: L.LightningModule) -> nn.Module:
    network = module.network
    assert isinstance(network, nn.Module)
    return network
