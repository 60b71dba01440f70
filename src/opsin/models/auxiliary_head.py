"""A second classifier in the middle of a network, which helps it train."""

from typing import Any, Self

from torch import Tensor, nn


class Auxiliary(nn.Module):
    """Logits from the output of a stage, while the network trains; its loss is added to the network's.

    It brings gradients to the early stages and regularises them ("Rethinking the Inception Architecture",
    Szegedy et al., arXiv:1512.00567, section 4). `Network.forward` hands it the stage's output; whoever works
    out the loss takes the logits. In `eval()` it computes nothing, and frozen it stays in `eval()`.

    Attributes:
        head: The stage's output to logits `(N, num_logits)`.
        after: The name of that stage.
        weight: What its loss is multiplied by.
    """

    def __init__(self, head: nn.Module, *, after: str, weight: float) -> None:
        super().__init__()
        self.head = head
        self.after = after
        self.weight = weight
        self._logits: Tensor | None = None

    def forward(self, features: Tensor) -> None:
        """Work out the logits for `take_logits`, in training only."""
        self._logits = self.head(features) if self.training else None

    def take_logits(self) -> Tensor | None:
        """Return the logits of the last batch, once; None: it was not trained on."""
        logits, self._logits = self._logits, None
        return logits

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; what is frozen stays in `eval()`."""
        return super().train(mode and any(parameter.requires_grad for parameter in self.parameters()))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the logits behind in copies: they belong to one step, and copies of their graph are refused."""
        return {**self.__dict__, "_logits": None}
