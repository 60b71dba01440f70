"""Whether a map shows what a network has learned: re-drawing its weights must change it."""

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
"""The rank correlation from which on maps of learned and of re-drawn weights count as one picture. The paper looks at
curves and sets no bound: this one is ours."""

LEVEL = 0.01
"""How probable it may be that a network which knows nothing tells the classes as well, for it to have learned."""


@dataclass(frozen=True)
class Sanity:
    """What becomes of a network's maps when its weights are drawn anew, from the head down.

    Attributes:
        redrawn: The steps of the network, in the order they are re-drawn: those before stay re-drawn.
        correlation: Rank correlation (Spearman) of the maps with those of the learned weights after each step, mean
            over the images; a map without any contrast correlates with none, 0.
        similarity: The same as structural similarity (SSIM), which also counts areas where both show nothing.
        hits: Images for which the network, as it is, says the target.
        images: All of them.
        p: How often targets are as probable to it, on average, when they are dealt to the images at random.
    """

    redrawn: tuple[str, ...]
    correlation: tuple[float, ...]
    similarity: tuple[float, ...]
    hits: int
    images: int
    p: float

    @property
    def learned(self) -> bool:
        """Whether the network tells the targets better than chance: with random weights there is nothing to show."""
        return self.p < LEVEL

    @property
    def sensitive(self) -> bool:
        """Whether the maps are gone when all weights are re-drawn."""
        return self.correlation[-1] < ALIKE

    @property
    def passed(self) -> bool:
        """Whether the maps can be said to show what the network has learned."""
        return self.learned and self.sensitive

    @property
    def verdict(self) -> str:
        """One sentence."""
        figures = f"rank correlation {self.correlation[-1]:.2f} with the maps of random weights"
        if not self.sensitive:
            return f"failed: the maps hardly depend on what the network has learned ({figures})"
        if not self.learned:
            return (
                f"failed: the network tells {self.hits} of {self.images} images, which may be chance "
                f"(p = {self.p:.2f}), so there may be nothing learned to show"
            )
        return f"passed: the maps are gone with the learned weights ({figures})"


def randomisation_check(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    method: str | Attribute = "gradcam",
    stage: str | None = None,
    *,
    cascade: bool = True,
    seed: int = 0,
) -> Sanity:
    """Maps under weights that are drawn anew, step by step from the head: Adebayo et al., arXiv:1810.03292, section 3.

    A map that stays the same does not show what the network has learned, but edges of the image. That does not tell
    a network that has learned nothing, whose maps change as well: so the targets must also be more probable to it
    than the same ones dealt to the images at random (permutation test). Take some dozens of images of several
    classes, and their true classes: any network hits what it says itself.

    Weights are drawn as He et al. start them (arXiv:1502.01852), biases are zero, and norms neutral.

    Args:
        network: A `Network`; left as it was, copies are re-drawn.
        images: `(N, C, H, W)`, as the network takes them.
        targets: Their true classes `(N,)`.
        method: One of `opsin.interpretability.attribution.METHODS`, or a function that makes maps.
        stage: For Grad-CAM, whose maps; None: the last.
        cascade: Whether maps are made after every step; False: only once all are re-drawn, which is what the verdict
            rests on, for methods that take their time.
        seed: Of the weights.
    """
    make: Attribute = partial(attribute, method=method, stage=stage) if isinstance(method, str) else method
    draws = torch.Generator().manual_seed(seed)
    with eval_context(network) as still:
        original = make(still, images, targets)
        probabilities, classes = _probabilities(still, images), targets.cpu().numpy()
        changed = copy.deepcopy(still)
        redrawn, correlation, similarity = [], [], []
        learning = [(name, step) for name, step in changed.steps().items() if any(True for _ in step.parameters())]
        for name, step in reversed(learning):
            redraw(step, draws)
            if cascade or step is learning[0][1]:
                maps = make(changed, images, targets)
                redrawn.append(name)
                correlation.append(_mean_over_images(rank_correlation, original, maps))
                similarity.append(_mean_over_images(structural_similarity, original, maps))
    hits = int((probabilities.argmax(1) == classes).sum())
    p = _chance(probabilities, classes, seed)
    return Sanity(tuple(redrawn), tuple(correlation), tuple(similarity), hits, len(images), p)


@torch.no_grad()
def redraw(module: nn.Module, draws: torch.Generator) -> None:
    """Draw the weights of a module anew, in place: He's normal ones for matrices and kernels, the rest neutral."""
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
    """Spearman's rank correlation of two maps; 0 where one of them has no contrast."""
    if a.min() == a.max() or b.min() == b.max():
        return 0.0
    return float(spearmanr(a, b, axis=None).statistic)


def structural_similarity(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Structural similarity (Wang et al. 2004) of two maps in [0, 1]."""
    from skimage.metrics import structural_similarity as ssim

    side = min(7, *a.shape)
    return float(ssim(a, b, data_range=1.0, win_size=side - 1 + side % 2))


def _mean_over_images(measure: Callable[..., float], a: Tensor, b: Tensor) -> float:
    return float(np.mean([measure(one, other) for one, other in zip(a.numpy(), b.numpy(), strict=True)]))


@torch.no_grad()
def _probabilities(network: Network, images: Tensor) -> NDArray[np.float32]:
    rows = [class_logits(network(as_input(network, some)).float()).softmax(1) for some in torch.split(images, BLOCK)]
    return torch.cat(rows).cpu().numpy()


def _chance(probabilities: NDArray[np.float32], classes: NDArray[np.int64], seed: int) -> float:
    """How often classes `(N,)` dealt to the images at random get as much of the probabilities `(N, C)`."""

    def told(dealt: NDArray[np.int64]) -> float:
        return float(probabilities[np.arange(len(dealt)), dealt].mean())

    if len(set(classes.tolist())) < 2:
        return 1.0
    test = permutation_test((classes,), told, permutation_type="pairings", alternative="greater", rng=seed)
    return float(test.pvalue)
