"""The graph of the network."""

import copy
import logging
import warnings

import lightning as L
import torch
from torch import Tensor

from opsin.models import Network
from opsin.models.torch_internals import TracerWarning
from opsin.training.callbacks.tensorboard_base import TensorBoardCallback
from opsin.training.loggers.tensorboard import TensorBoard

log = logging.getLogger(__name__)


class Graph(TensorBoardCallback):
    """Show the graph of the network, stage by stage, when training begins.

    It traces a copy on the CPU, so that training and `torch.compile` are not affected.
    """

    looks_inside = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Trace one image through a copy of the network; a resumed run has its graph already."""
        board, data, network = self.board(trainer), self.images(trainer), getattr(pl_module, "network", None)
        if board is None or data is None or not isinstance(network, Network) or trainer.global_step:
            return
        try:
            log_graph(board, network, torch.zeros(1, data.channels, *data.image_size))
        except RuntimeError as error:  # control flow depends on the input
            log.warning("TensorBoard will show no graph of %s: %s", network.name, str(error).splitlines()[0])


def log_graph(board: TensorBoard, network: Network, images: Tensor) -> None:
    """Write the graph of a network.

    Args:
        board: The TensorBoard writer.
        network: Any network.
        images: Any images `(1, C, H, W)`.

    Raises:
        RuntimeError: The network cannot be traced.
    """
    twin = copy.deepcopy(network).to("cpu", torch.float32).requires_grad_(False).eval()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.trace", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*torch.jit.trace", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*already a ScriptModule", category=UserWarning)
        warnings.filterwarnings("ignore", category=TracerWarning)
        # Checking a trace would run the network twice more; only a traced network skips that in the writer.
        traced = torch.jit.trace(twin, images, check_trace=False)  # type: ignore[no-untyped-call]
        board.experiment.add_graph(traced, images)
