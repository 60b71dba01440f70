"""Whether a map tells the truth about a network: deletion and insertion of pixels."""

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
    """How a class's probability goes with the pixels that a map marks, most marked first.

    Attributes:
        fractions: Of the pixels that are deleted or inserted, `(S + 1,)`, from 0 to 1.
        deletion: The probability with so many pixels replaced by the mean colour, `(N, S + 1)`.
        insertion: With so many pixels put into the blurred image, `(N, S + 1)`.
    """

    fractions: Tensor
    deletion: Tensor
    insertion: Tensor

    @property
    def deletion_area(self) -> Tensor:
        """Area under each deletion curve `(N,)`, in [0, 1]: the lower, the more the marked pixels were needed."""
        return torch.trapezoid(self.deletion, self.fractions)

    @property
    def insertion_area(self) -> Tensor:
        """Area under each insertion curve `(N,)`, in [0, 1]: the higher, the more the marked pixels were enough."""
        return torch.trapezoid(self.insertion, self.fractions)


def faithfulness(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    heat: Tensor,
    *,
    steps: int = 32,
    seed: int = 0,
    block: int = BLOCK,
) -> Faithfulness:
    """Deletion and insertion curves of maps: RISE (Petsiuk et al., arXiv:1806.07421, section 4.2).

    Deleted pixels become zero, which is the mean colour of the data where images are normalised by it. Insertion
    starts from the image under a Gaussian blur of a tenth of its shorter side (the paper's 11 x 11 pixels leave small
    images as they are). Equally marked pixels, such as all that are not marked, follow each other in random order.

    The areas compare maps of the same image and network. They depend on both, and so have no value that is good as
    such: set them beside those of a `random_heat`.

    Args:
        network: Images to logits; left as it was.
        images: `(N, C, H, W)`, as the network takes them.
        targets: The classes that the maps speak for, `(N,)`.
        heat: The maps `(N, H, W)`, of any scale.
        steps: Into how many parts the pixels are divided.
        seed: Of the order of equally marked pixels.
        block: Pictures in memory at a time.

    Raises:
        UserError: The maps are not of the images' size.
    """
    shape = (len(images), *images.shape[2:])
    if tuple(heat.shape) != shape:
        raise UserError(f"maps of shape {tuple(heat.shape)} do not fit images of shape {tuple(images.shape)}")
    draws = torch.Generator().manual_seed(seed)
    with eval_context(network) as still, torch.no_grad():
        classes, fractions = as_targets(still, targets), torch.linspace(0, 1, steps + 1)
        deletion, insertion = torch.zeros(len(images), steps + 1), torch.zeros(len(images), steps + 1)
        for i, (image, marks) in enumerate(zip(images, heat, strict=True)):
            sharp = as_input(still, image)
            place = _places(marks, draws).to(sharp.device)
            # With k pixels done, those in places below k are: `(S + 1, 1, H, W)`.
            done = (place < (fractions * place.numel()).round().to(place.device)[:, None, None])[:, None]
            deletion[i] = _probabilities(still, sharp, torch.zeros_like(sharp), ~done, classes[i], block)
            insertion[i] = _probabilities(still, sharp, _blurred(sharp), done, classes[i], block)
    return Faithfulness(fractions, deletion, insertion)


def random_heat(images: Tensor, *, cells: int = 7, seed: int = 0) -> Tensor:
    """Maps `(N, H, W)` in [0, 1] that know nothing: random, and as smooth as a Grad-CAM of `cells` x `cells`."""
    coarse = torch.rand(len(images), 1, cells, cells, generator=torch.Generator().manual_seed(seed))
    size = (images.shape[2], images.shape[3])
    return F.interpolate(coarse, size, mode="bilinear", align_corners=False)[:, 0]


def _places(marks: Tensor, draws: torch.Generator) -> Tensor:
    """Each pixel's place in the order from the most marked to the least, `(H, W)`."""
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


def _probabilities(
    network: nn.Module, sharp: Tensor, other: Tensor, keep: Tensor, target: Tensor, block: int
) -> Tensor:
    """The probability of a class for the image where `keep`, and the other picture elsewhere: `(S + 1,)` on the CPU."""
    rows = [
        class_logits(network(torch.where(some, sharp, other)).float()).softmax(1)[:, target]
        for some in torch.split(keep, block)
    ]
    return torch.cat(rows).cpu()
