"""Deletion, insertion and the randomization check detect maps that do not depend on the weights."""

import copy

import numpy as np
import pytest
import torch
from planted_patches import planted_images, trained, untrained
from torch import Tensor, nn

from opsin.errors import UserError
from opsin.interpretability.attribution import METHODS, attribute
from opsin.interpretability.faithfulness import RandomComparison, compare_with_random, faithfulness, random_maps
from opsin.interpretability.sanity_check import randomization_check, randomize, rank_correlation
from opsin.models.network import Network


@pytest.fixture(scope="module")
def three() -> Network:
    return trained(3)


class _Sum(nn.Module):
    """One logit: a weighted sum of four pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0, 2.0], [0.0, 4.0]]))

    def forward(self, images: Tensor) -> Tensor:
        return (images[:, 0] * self.weight).sum((1, 2))[:, None]


def test_deletion_by_hand() -> None:
    """Pixels are deleted in the order of the map; the curve is the probability for the remaining pixels."""
    image, heat = torch.ones(1, 1, 2, 2), torch.tensor([[[0.2, 0.9], [0.0, 0.5]]])
    scores = faithfulness(_Sum(), image, torch.tensor([1]), heat, steps=4)
    left = torch.sigmoid(torch.tensor([[7.0, 5.0, 1.0, 0.0, 0.0]]))  # without 2, then 4, then 1, then 0
    torch.testing.assert_close(scores.fractions, torch.tensor([0, 0.25, 0.5, 0.75, 1]))
    torch.testing.assert_close(scores.deletion, left)
    area = (left[:, :-1] + left[:, 1:]).sum() / 8
    torch.testing.assert_close(scores.deletion_area, area[None])
    torch.testing.assert_close(scores.insertion[:, -1], left[:, 0])
    other = faithfulness(_Sum(), image, torch.tensor([0]), heat, steps=4)
    torch.testing.assert_close(other.deletion, 1 - left)


def test_a_map_of_the_patch_is_better_than_random_maps_and_its_opposite_is_not(three: Network) -> None:
    images, targets, _ = planted_images(4)
    heat = attribute(three, images, targets, "occlusion")
    found = [compare_with_random(three, *one) for one in zip(images, targets.tolist(), heat, strict=True)]
    assert all(one.is_better for one in found)
    assert found[0].statement.startswith("better than random maps: deletion 0.")
    scores = faithfulness(three, images, targets, 1 - heat)
    opposite = RandomComparison.of(scores, faithfulness(three, images, targets, random_maps(images)))
    assert not opposite.is_better
    assert opposite.statement.startswith("no better than random maps: ")
    assert opposite.statement.endswith("mean of 4")
    assert opposite.insertion == pytest.approx(float(scores.insertion_area.mean()))


@pytest.mark.parametrize(("insertion", "statement"), [(0.551, "better than"), (0.40, "no better than")])
def test_the_statement_names_the_difference_that_decides(insertion: float, statement: str) -> None:
    found = RandomComparison(0.178, insertion, 0.274, 0.562, count=1)  # one of two scores is better in both cases
    assert found.statement.startswith(f"{statement} random maps: ")
    assert found.statement.endswith(f", which decides, {insertion - 0.178:.3f} (random maps 0.288)")


def test_curves_begin_and_end_at_the_image_and_the_baseline(three: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opsin.interpretability.faithfulness.BLOCK", 3)
    images, targets, _ = planted_images(4)
    scores = faithfulness(three, images, targets, random_maps(images), steps=7)
    with torch.no_grad():
        whole = three(images).softmax(1)[torch.arange(4), targets]
        nothing = three(torch.zeros_like(images)).softmax(1)[torch.arange(4), targets]
    assert scores.deletion.shape == scores.insertion.shape == (4, 8)
    torch.testing.assert_close(scores.deletion[:, 0], whole)
    torch.testing.assert_close(scores.insertion[:, -1], whole)
    torch.testing.assert_close(scores.deletion[:, -1], nothing)


@pytest.mark.parametrize("method", METHODS)
def test_a_correct_map_scores_above_a_random_one(method: str, three: Network) -> None:
    images, targets, _ = planted_images(12, seed=3)
    true = faithfulness(three, images, targets, attribute(three, images, targets, method))
    random = faithfulness(three, images, targets, random_maps(images))
    assert true.deletion_area.mean() < random.deletion_area.mean() - 0.1
    assert true.insertion_area.mean() > random.insertion_area.mean() + 0.1


def test_ties_are_ordered_at_random_with_a_seed(three: Network) -> None:
    """Otherwise an empty map would have the score of a map that ranks pixels from top to bottom."""
    from opsin.interpretability.faithfulness import _places

    places = _places(torch.zeros(24, 24), torch.Generator().manual_seed(0)).flatten()
    assert sorted(places.tolist()) == list(range(576))
    assert abs(np.corrcoef(places.numpy(), np.arange(576))[0, 1]) < 0.15
    images, targets, _ = planted_images(2)
    twice = [faithfulness(three, images, targets, torch.zeros(2, 24, 24), steps=5) for _ in range(2)]
    assert torch.equal(twice[0].deletion, twice[1].deletion)


def test_inference_mode_of_the_caller_is_supported(three: Network) -> None:
    images, targets, _ = planted_images(9, seed=4)
    expected = faithfulness(three, images, targets, random_maps(images), steps=4)
    sanity = randomization_check(three, images, targets)
    with torch.inference_mode():
        given, classes = images.clone(), targets.clone()
        found = faithfulness(three, given, classes, random_maps(given), steps=4)
        assert randomization_check(three, given, classes) == sanity
    torch.testing.assert_close(found.deletion, expected.deletion)
    torch.testing.assert_close(found.insertion_area, expected.insertion_area)


def test_maps_of_another_size_are_refused(three: Network) -> None:
    images, targets, _ = planted_images(2)
    with pytest.raises(UserError, match=r"maps of shape \(2, 12, 12\) do not fit images of shape \(2, 3, 24, 24\)"):
        faithfulness(three, images, targets, torch.zeros(2, 12, 12))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_trained_network_passes(method: str, three: Network) -> None:
    images, targets, _ = planted_images(18, seed=4)
    sanity = randomization_check(three, images, targets, method)
    assert sanity.correct == 18
    assert sanity.p < 0.001
    assert sanity.summary.startswith("passed: the maps depend on")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_a_network_of_random_weights_fails(seed: int) -> None:
    images, targets, _ = planted_images(24, seed=4)
    sanity = randomization_check(untrained(3, seed), images, targets)
    assert "which may be chance" in sanity.summary or "hardly depend" in sanity.summary


def test_images_of_one_class_do_not_pass(three: Network) -> None:
    """A network that always predicts this class has the same accuracy."""
    images, targets, _ = planted_images(18, seed=4)
    sanity = randomization_check(three, images[::3], targets[::3])
    assert sanity.correct == 6
    assert sanity.p == 1
    assert sanity.summary.startswith("failed: ")


def test_a_map_of_edges_fails(three: Network) -> None:
    """Edges look like an explanation but do not depend on the network, see Adebayo et al."""

    def edges(_: Network, images: Tensor, __: Tensor) -> Tensor:
        change = images.diff(dim=3, append=images[..., -1:]).abs().mean(1)
        return change / change.amax((1, 2), keepdim=True)

    images, targets, _ = planted_images(18, seed=4)
    sanity = randomization_check(three, images, targets, edges)
    assert sanity.correlation == pytest.approx(1)
    assert sanity.above_chance
    assert "hardly depend on what the network has learned" in sanity.summary


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_maps_fail(three: Network, value: float) -> None:
    images, targets, _ = planted_images(18, seed=4)
    sanity = randomization_check(three, images, targets, lambda _, x, __: torch.full_like(x[:, 0], value))
    assert sanity.correlation == 1
    assert sanity.above_chance
    assert "hardly depend on what the network has learned" in sanity.summary


def test_maps_that_become_constant_have_changed(three: Network) -> None:
    images, targets, _ = planted_images(18, seed=4)
    maps = iter([random_maps(images), torch.zeros(18, 24, 24)])
    sanity = randomization_check(three, images, targets, lambda *_: next(maps))
    assert sanity.correlation == 0
    assert sanity.summary.startswith("passed: ")


def test_all_weights_are_randomized_with_a_seed() -> None:
    networks = [copy.deepcopy(trained(3)) for _ in range(2)]
    before = {key: tensor.clone() for key, tensor in networks[0].state_dict().items()}
    for network in networks:
        randomize(network, torch.Generator().manual_seed(3))
    after = networks[0].state_dict()
    for key, tensor in after.items():
        assert torch.equal(tensor, networks[1].state_dict()[key])
        assert key.endswith("num_batches_tracked") or not torch.equal(tensor, before[key])
    assert float(after["stages.high.conv.weight"].std()) == pytest.approx((2 / 72) ** 0.5, rel=0.1)
    assert torch.equal(after["stages.low.norm.running_var"], torch.ones(8))


def test_rank_correlation_of_maps() -> None:
    draws = np.random.default_rng(0)
    one, other = draws.random((2, 12, 9), np.float32)
    assert rank_correlation(one, one**3) == pytest.approx(1)
    assert rank_correlation(one, 1 - one) == pytest.approx(-1)
    assert abs(rank_correlation(one, other)) < 0.3
    assert rank_correlation(one, np.zeros_like(one)) == 0
    assert rank_correlation(np.ones_like(one), other) == 0
    assert rank_correlation(np.zeros_like(one), np.zeros_like(one)) == 1
    assert rank_correlation(np.zeros_like(one), np.ones_like(one)) == 1
