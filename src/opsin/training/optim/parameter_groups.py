"""Parameter groups of an optimizer: trained parameters, learning rates and weight decay."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field
from torch import nn

from opsin.models.fine_tuning import FineTuning


@dataclass(frozen=True)
class GroupOptions:
    """Learning rate and weight decay: the keys of the `optimizer` section that every optimizer has.

    Attributes:
        lr: Learning rate of the head.
        weight_decay: Weight decay as the optimizer defines it (L2 for SGD and Adam, decoupled for AdamW).
        decay_norm_and_bias: Apply weight decay to norm layers and biases too.
    """

    lr: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    decay_norm_and_bias: bool = False


def parameter_groups(
    network: nn.Module, options: GroupOptions, fine_tuning: FineTuning, stages: Collection[str] | None = None
) -> list[dict[str, Any]]:
    """Return the parameter groups of a network: one per learning rate, with and without weight decay.

    The backbone is one part, `backbone`, unless `layer_decay` gives each stage its own rate: the rate of stage `i`
    from the back is `lr * backbone_lr_factor * layer_decay ** i`, as in ELECTRA (Clark et al., arXiv:2003.10555,
    appendix A) and BEiT; discriminative fine-tuning (Howard and Ruder, arXiv:1801.06146, section 3.2) is
    `layer_decay=1/2.6`. Groups are in the order of the forward pass; the groups of the head are the last.

    Stages that are unfrozen later have groups from the start: an optimizer skips parameters without a gradient, and the
    state of groups that appear later could not be restored. Norm layers and biases (all parameters with at most one
    dimension) have no weight decay by default, because it does not regularize them (He et al., "Bag of Tricks",
    arXiv:1812.01187, section 3.1).

    Args:
        network: A module with `stages` and a `head`; parameters outside the stages train like the head, and those in
            `fixed` do not train.
        options: Learning rate of the head and weight decay.
        fine_tuning: Learning rates of the stages as multiples of that of the head.
        stages: The stages that train in any epoch; None for the parameters that require gradients now.

    Returns:
        Groups with `name` (`layer4/decay`), `params`, `lr` and `weight_decay`, for any optimizer of torch; empty groups
        are left out.
    """
    lr, weight_decay, layer_decay = options.lr, options.weight_decay, fine_tuning.layer_decay
    order = list(dict.fromkeys(filter(None, (_stage_of(name) for name, _ in network.named_parameters()))))
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        stage = _stage_of(name)
        if not (parameter.requires_grad if stages is None else _trains(network, name, order, stages)):
            continue
        depth = len(order) - order.index(stage) if stage else 0
        part = "head" if stage is None else "backbone" if layer_decay == 1 else stage
        decays = weight_decay > 0 and (options.decay_norm_and_bias or parameter.ndim > 1)
        group = groups.setdefault(
            f"{part}/{'decay' if decays else 'no_decay'}",
            {
                "params": [],
                "lr": lr * fine_tuning.backbone_lr_factor * layer_decay**depth if stage else lr,
                "weight_decay": weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
    return [{"name": name, **group} for name, group in groups.items()]


def _trains(network: nn.Module, name: str, order: list[str], stages: Collection[str]) -> bool:
    """Return whether a parameter trains with these stages; an auxiliary head trains if a stage before it does."""
    if name in getattr(network, "fixed", ()):
        return False
    stage, auxiliary = _stage_of(name), getattr(network, "auxiliary", None)
    if auxiliary is not None and name.startswith("auxiliary."):
        return not set(stages).isdisjoint(order[: order.index(auxiliary.after) + 1])
    return stage is None or stage in stages


def _stage_of(parameter: str) -> str | None:
    """Return the stage of a parameter by its dotted name; None if it is in no stage."""
    return parameter.split(".")[1] if parameter.startswith("stages.") else None
