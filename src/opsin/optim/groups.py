"""Which parameters an optimizer trains, at which rate, and which of them decay."""

from typing import Annotated, Any

from pydantic import Field
from torch import nn


def parameter_groups(
    network: nn.Module,
    *,
    lr: Annotated[float, Field(gt=0)] = 1e-3,
    weight_decay: Annotated[float, Field(ge=0)] = 0.0,
    backbone_lr_factor: Annotated[float, Field(gt=0)] = 1.0,
    decay_norm_and_bias: bool = False,
) -> list[dict[str, Any]]:
    """Divide what a network trains into groups: backbone and head, each with and without weight decay.

    Frozen parameters are left out. Norm layers and biases (all parameters of one dimension or none) do not decay
    unless asked: shrinking them regularises nothing (He et al., "Bag of Tricks", arXiv:1812.01187, section 3.1).

    Args:
        network: has a `head`, and perhaps an `auxiliary` one; every other parameter belongs to the backbone.
        lr: learning rate of the head.
        weight_decay: decay of weights, in the optimizer's own meaning (L2 for SGD and Adam, decoupled for AdamW).
        backbone_lr_factor: the backbone's learning rate as a multiple of the head's.
        decay_norm_and_bias: decay every parameter.

    Returns:
        Groups with `name`, `params`, `lr` and `weight_decay`, for any of torch's optimizers; empty ones are left out.
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        part = "head" if name.startswith(("head.", "auxiliary.")) else "backbone"
        decays = weight_decay > 0 and (decay_norm_and_bias or parameter.ndim > 1)
        group = groups.setdefault(
            f"{part}/{'decay' if decays else 'no_decay'}",
            {
                "params": [],
                "lr": lr if part == "head" else lr * backbone_lr_factor,
                "weight_decay": weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
    return [{"name": name, **group} for name, group in groups.items()]
