"""Faithfulness of attribution maps: deletion and insertion of pixels."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from opsin.errors import UserError
from opsin.interpretability.attribution import BLOCK
from opsin.interpretability.eval_context import as_input, as_targets, eval_context
from opsin.models.network import class_logits


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """The probability of a class as pixels are deleted or inserted, in descending order of the map.

    Attributes:
        fractions: Fractions of pixels deleted or inserted, `(S + 1,)`, from 0 to 1.
        deletion: Probability with these pixels replaced by the mean color, `(N, S + 1)`.
        insertion: Probability with these pixels inserted into the blurred image, `(N, S + 1)`.
    """

    fractions: Tensor
    deletion: Tensor
    insertion: Tensor

    @property
    def deletion_area(self) -> Tensor:
        """Area under each deletion curve `(N,)`, in [0, 1]; lower is better."""
        return torch.trapezoid(self.deletion, self.fractions)

    @property
    def insertion_area(self) -> Tensor:
        """Area under each insertion curve `(N,)`, in [0, 1]; higher is better."""
        return torch.trapezoid(self.insertion, self.fractions)


@dataclass(frozen=True)
class RandomComparison:
    """The mean areas of some maps and of random maps.

    Attributes:
        deletion: Area under the deletion curve; lower is better.
        insertion: Area under the insertion curve; higher is better.
        random_deletion: Area under the deletion curve of random maps.
        random_insertion: Area under the insertion curve of random maps.
        count: Number of maps.
    """

    deletion: float
    insertion: float
    random_deletion: float
    random_insertion: float
    count: int

    @classmethod
    def of(cls, scores: Faithfulness, baseline: Faithfulness) -> "RandomComparison":
        """Return the comparison of the curves of maps with those of random maps."""
        return cls(
            float(scores.deletion_area.mean()),
            float(scores.insertion_area.mean()),
            float(baseline.deletion_area.mean()),
            float(baseline.insertion_area.mean()),
            len(scores.deletion),
        )

    @property
    def difference(self) -> float:
        """Insertion minus deletion."""
        return self.insertion - self.deletion

    @property
    def random_difference(self) -> float:
        """Insertion minus deletion of random maps."""
        return self.random_insertion - self.random_deletion

    @property
    def is_better(self) -> bool:
        """Whether the difference between insertion and deletion is larger than that of random maps."""
        return self.difference > self.random_difference

    @property
    def statement(self) -> str:
        """The comparison in one sentence."""
        return (
            f"{'better' if self.is_better else 'no better'} than random maps: "
            f"deletion {self.deletion:.3f} (random maps {self.random_deletion:.3f}; lower is better), "
            f"insertion {self.insertion:.3f} (random maps {self.random_insertion:.3f}; higher is better), "
            f"insertion minus deletion, which decides, {self.difference:.3f} (random maps {self.random_difference:.3f})"
            + (f", mean of {self.count}" if self.count > 1 else "")
        )


def compare_with_random(network: nn.Module, image: Tensor, target: int, heat: Tensor) -> RandomComparison:
    """Compare the map of one image with several random maps.

    Args:
        network: Any module from images to logits; it does not change.
        image: Input of the network `(C, H, W)`.
        target: The class of the map.
        heat: The map `(H, W)`.
    """
    steps, maps = 16, 3
    scores = faithfulness(network, image[None], torch.tensor([target]), heat[None], steps=steps)
    copies = image.expand(maps, *image.shape)
    baseline = faithfulness(network, copies, torch.full((maps,), target), random_maps(copies), steps=steps)
    return RandomComparison.of(scores, baseline)


def faithfulness(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    heat: Tensor,
    *,
    steps: int = 32,
) -> Faithfulness:
    """Return the deletion and insertion curves of maps: RISE (Petsiuk et al., arXiv:1806.07421, section 4.2).

    Deleted pixels become zero, the mean color of the data if images are normalized. Insertion starts from the image
    with a Gaussian blur of a tenth of its shorter side (the 11 x 11 pixels of the paper have little effect on small
    images). Pixels with equal values, such as zeros, are in random order.

    Compare areas only for the same image and network, for example with those of `random_maps`.

    Args:
        network: Any module from images to logits; it does not change.
        images: Input of the network `(N, C, H, W)`.
        targets: The classes of the maps, `(N,)`.
        heat: The maps `(N, H, W)`, on any scale.
        steps: Number of steps.

    Raises:
        UserError: The maps and the images differ in size, or there is not one class per image.
    """
    shape = (len(images), *images.shape[2:])
    if tuple(heat.shape) != shape:
        raise UserError(f"maps of shape {tuple(heat.shape)} do not fit images of shape {tuple(images.shape)}")
    draws = torch.Generator().manual_seed(0)  # of the order of equal values
    with eval_context(network) as model, torch.no_grad():
        classes, fractions = as_targets(model, targets, images), torch.linspace(0, 1, steps + 1)
        deletion, insertion = torch.zeros(len(images), steps + 1), torch.zeros(len(images), steps + 1)
        for i, (image, marks) in enumerate(zip(images, heat, strict=True)):
            sharp = as_input(model, image)
            place = _places(marks, draws).to(sharp.device)
            # The k most important pixels are those with a rank below k: `(S + 1, 1, H, W)`.
            done = (place < (fractions * place.numel()).round().to(place.device)[:, None, None])[:, None]
            deletion[i] = _probabilities(model, sharp, torch.zeros_like(sharp), ~done, classes[i])
            insertion[i] = _probabilities(model, sharp, _blurred(sharp), done, classes[i])
    return Faithfulness(fractions, deletion, insertion)


def random_maps(images: Tensor) -> Tensor:
    """Return random maps `(N, H, W)` in [0, 1], as smooth as a Grad-CAM of 7 x 7 positions."""
    coarse = torch.rand(len(images), 1, 7, 7, generator=torch.Generator().manual_seed(0))
    size = (images.shape[2], images.shape[3])
    return F.interpolate(coarse, size, mode="bilinear", align_corners=False)[:, 0]


def _places(marks: Tensor, draws: torch.Generator) -> Tensor:
    """Return the rank of each pixel, from the largest value to the smallest, `(H, W)`."""
    flat = marks.detach().flatten().float().cpu()
    shuffled = torch.randperm(len(flat), generator=draws)
    order = shuffled[flat[shuffled].argsort(descending=True, stable=True)]
    places = torch.empty(len(flat), dtype=torch.int64)
    places[order] = torch.arange(len(flat))
    return places.reshape(marks.shape)


def _blurred(image: Tensor) -> Tensor:
    sigma = min(image.shape[1:]) / 10
    soft = gaussian_filter(image.float().cpu().numpy(), (0, sigma, sigma), mode="nearest")
    return torch.from_numpy(soft).to(image.device, image.dtype)


def _probabilities(network: nn.Module, sharp: Tensor, other: Tensor, keep: Tensor, target: Tensor) -> Tensor:
    """Return the probability of a class for `sharp` where `keep` is true, and `other` elsewhere: `(S + 1,)`, CPU."""
    rows = [
        class_logits(network(torch.where(some, sharp, other)).float()).softmax(1)[:, target]
        for some in torch.split(keep, BLOCK)
    ]
    return torch.cat(rows).cpu()
