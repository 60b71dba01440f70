"""An auxiliary classifier on an intermediate stage, used in training only."""

from typing import Any, Self

from torch import Tensor, nn


class Auxiliary(nn.Module):
    """Compute logits from the output of a stage in training; their loss is added to the loss of the network.

    It gives the early stages larger gradients and regularizes them ("Rethinking the Inception Architecture", Szegedy
    et al., arXiv:1512.00567, section 4). `Network.forward` passes it the output of the stage; the loss calls
    `take_logits`. In `eval()` it computes nothing. A frozen head stays in `eval()`.

    Attributes:
        head: Maps the output of the stage to logits `(N, num_logits)`.
        after: The name of the stage.
        weight: The factor of its loss.
    """

    def __init__(self, head: nn.Module, *, after: str, weight: float) -> None:
        super().__init__()
        self.head = head
        self.after = after
        self.weight = weight
        self._logits: Tensor | None = None

    def forward(self, features: Tensor) -> None:
        """Compute the logits for `take_logits`, in training only."""
        self._logits = self.head(features) if self.training else None

    def take_logits(self) -> Tensor | None:
        """Return the logits of the last batch and release them; None if there are none."""
        logits, self._logits = self._logits, None
        return logits

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; a frozen head stays in `eval()`."""
        return super().train(mode and any(parameter.requires_grad for parameter in self.parameters()))

    def __getstate__(self) -> dict[str, Any]:
        """Exclude the logits from copies: they belong to one step, and autograd graphs cannot be copied."""
        return {**self.__dict__, "_logits": None}
