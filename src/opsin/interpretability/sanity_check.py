"""Sanity check of attribution maps: randomizing the weights of the network must change them."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import permutation_test, spearmanr
from torch import Tensor, nn

from opsin.interpretability.attribution import BLOCK, attribute
from opsin.interpretability.eval_context import as_input, eval_context
from opsin.models.network import Network, class_logits

Attribute = Callable[[Network, Tensor, Tensor], Tensor]
"""Network, images and targets to maps `(N, H, W)`."""

ALIKE = 0.5
"""The rank correlation from which maps of trained and randomized weights count as equal. The paper sets no threshold;
this one is chosen by Opsin."""

LEVEL = 0.01
"""Significance level of the permutation test that the network predicts better than chance."""


@dataclass(frozen=True)
class Sanity:
    """The similarity of maps before and after all weights are randomized.

    Attributes:
        correlation: Rank correlation (Spearman) of both maps, averaged over the images. It is 1 for an image whose maps
            are both constant, and 0 if only one of them is.
        correct: Number of images that the trained network classifies correctly.
        images: Number of images.
        p: p-value of the permutation test of the target probabilities.
    """

    correlation: float
    correct: int
    images: int
    p: float

    @property
    def above_chance(self) -> bool:
        """Whether the network predicts the targets better than chance."""
        return self.p < LEVEL

    @property
    def sensitive(self) -> bool:
        """Whether the maps change when the weights are randomized."""
        return self.correlation < ALIKE

    @property
    def summary(self) -> str:
        """The result in one sentence."""
        figures = f"rank correlation {self.correlation:.2f} with the maps of random weights"
        if not self.sensitive:
            return f"failed: the maps hardly depend on what the network has learned ({figures})"
        if not self.above_chance:
            return (
                f"failed: the network classifies {self.correct} of {self.images} images correctly, which may be chance "
                f"(p = {self.p:.2f}), so the check says nothing about the maps"
            )
        return f"passed: the maps depend on the learned weights ({figures})"


def randomization_check(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    method: str | Attribute = "gradcam",
    stage: str | None = None,
) -> Sanity:
    """Compare maps before and after all weights are randomized: Adebayo et al., arXiv:1810.03292, section 3.

    A map that does not change depends on the image alone, such as on its edges, or on nothing, such as a constant map.
    The maps of an untrained network change too, so the targets must also have a higher probability than randomly
    permuted targets (permutation test). Use some dozens of images of several classes and their true classes, not the
    predicted ones.

    Weights are drawn as in He et al. (arXiv:1502.01852), biases are zero, and norms are the identity.

    Args:
        network: A `Network`; it does not change, a copy is randomized.
        images: Input of the network `(N, C, H, W)`.
        targets: The true classes `(N,)`.
        method: One of `opsin.interpretability.attribution.METHODS`, or a function that returns maps.
        stage: The stage for Grad-CAM; None for the last stage whose output is a map.
    """
    make: Attribute = partial(attribute, method=method, stage=stage) if isinstance(method, str) else method
    draws = torch.Generator().manual_seed(0)
    with eval_context(network) as model:
        original = make(model, images, targets)
        probabilities, classes = _probabilities(model, images), targets.cpu().numpy()
        changed = copy.deepcopy(model)
        for step in reversed(changed.steps().values()):
            randomize(step, draws)
        pairs = zip(original.numpy(), make(changed, images, targets).numpy(), strict=True)
        correlation = float(np.mean([rank_correlation(*pair) for pair in pairs]))
    correct = int((probabilities.argmax(1) == classes).sum())
    return Sanity(correlation, correct, len(images), _chance(probabilities, classes))


@torch.no_grad()
def randomize(module: nn.Module, draws: torch.Generator) -> None:
    """Randomize the weights of a module in place.

    Matrices and kernels get He initialization; all other parameters and the running statistics get neutral values.
    """
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            if parameter.ndim > 1:
                std = (2 / parameter[0].numel()) ** 0.5
                parameter.copy_(torch.randn(parameter.shape, generator=draws) * std)
            else:
                parameter.fill_(0.0 if "bias" in name else 1.0)
        for name, buffer in part.named_buffers(recurse=False):
            if name in ("running_mean", "running_var"):
                buffer.fill_(1.0 if name == "running_var" else 0.0)


def rank_correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Return the rank correlation (Spearman) of two maps, which is undefined for constant ones.

    It is then 1 if both maps are constant, because they rank no region above another, and 0 if one of them is.
    """
    constant = [bool(values.min() == values.max()) for values in (a, b)]
    if any(constant):
        return float(all(constant))
    return float(spearmanr(a, b, axis=None).statistic)


@torch.no_grad()
def _probabilities(network: Network, images: Tensor) -> NDArray[np.float32]:
    rows = [class_logits(network(as_input(network, some)).float()).softmax(1) for some in torch.split(images, BLOCK)]
    return torch.cat(rows).cpu().numpy()


def _chance(probabilities: NDArray[np.float32], classes: NDArray[np.int64]) -> float:
    """Return the p-value of the mean probability `(N, C)` of the classes `(N,)` against permuted classes."""

    def mean_probability(permuted: NDArray[np.int64]) -> float:
        return float(probabilities[np.arange(len(permuted)), permuted].mean())

    if len(set(classes.tolist())) < 2:
        return 1.0
    test = permutation_test((classes,), mean_probability, permutation_type="pairings", alternative="greater", rng=0)
    return float(test.pvalue)
