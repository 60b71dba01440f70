"""Build the network of a run from its plan, without Lightning and without its images."""

from dataclasses import replace
from typing import Any, TypeVar

from opsin.errors import UserError
from opsin.models import Network
from opsin.models.plain_network import as_network, check_network
from opsin.runs.directory import RunDirectory
from opsin.runs.result import DataFacts
from opsin.training.accelerator import usable_accelerator
from opsin.training.hardware import prepare_network
from opsin.training.plan import NetworkPlan

P = TypeVar("P", bound=NetworkPlan)


def recorded_data(run: RunDirectory) -> DataFacts:
    """Return the data facts in the result of a run.

    Raises:
        UserError: The run ended before its data were ready, its result is damaged, or another version wrote it.
    """
    facts = run.read_result().data
    if facts is None:
        raise UserError(f"{run.path} ended before its data were ready: there is nothing to resume or to evaluate")
    return facts


def computed_arguments(num_logits: int, in_channels: int, image_size: tuple[int, int]) -> dict[str, Any]:
    """Return the values that the constructor of a network may take."""
    return {
        "num_logits": num_logits,
        "num_classes": num_logits,
        "in_channels": in_channels,
        "image_size": image_size,
    }


def new_network(plan: NetworkPlan, num_logits: int, in_channels: int, image_size: tuple[int, int]) -> Network:
    """Return the network of a plan with random weights; a plain module is divided into stages and a head.

    Args:
        plan: The checked config.
        num_logits: Outputs of the head.
        in_channels: Channels of the images.
        image_size: (height, width) of the images, in pixels.

    Raises:
        UserError: The network does not fit the data, or cannot be divided.
    """
    model = plan.model
    built = model.build(**computed_arguments(num_logits, in_channels, image_size))
    network = as_network(model.name, built, num_logits=num_logits, in_channels=in_channels, image_size=image_size)
    if network is built and not model.call.__module__.startswith("opsin."):
        check_network(model.name, network, num_logits=num_logits, in_channels=in_channels, image_size=image_size)
    return network


def for_evaluation(plan: P) -> P:
    """Return the plan for one device of this machine, which may lack the accelerator that the run was trained on."""
    options = plan.trainer.on_one_device()
    return replace(plan, trainer=replace(options, accelerator=usable_accelerator(options.accelerator)))


def prepare(plan: NetworkPlan, network: Network) -> bool:
    """Set memory format, recomputation and compilation of the network as the config says; return whether it is NHWC."""
    options = plan.trainer
    network.gradient_checkpointing = options.gradient_checkpointing
    return prepare_network(
        network,
        accelerator=options.accelerator,
        channels_last=options.channels_last,
        compile_network=options.compile,
    )
