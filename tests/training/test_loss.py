import numpy as np
import pytest
import torch
import torch.nn.functional as F

from opsin.errors import UserError
from opsin.models.network import class_logits
from opsin.training.loss import ClassificationLoss


def test_two_classes_take_one_logit_unless_asked() -> None:
    assert ClassificationLoss([5, 5]).num_logits == 1
    assert ClassificationLoss([5, 5], function="cross_entropy").num_logits == 2
    assert ClassificationLoss([5, 5, 5]).num_logits == 3
    with pytest.raises(UserError, match="needs two classes, but the dataset has 3"):
        ClassificationLoss([5, 5, 5], function="binary_cross_entropy")


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", ["none", "balanced"])
@pytest.mark.parametrize("soft", [False, True])
def test_one_logit_equals_two(smoothing: float, weights: str, soft: bool) -> None:
    """A logit z is the pair (0, z): both losses must agree, with every option."""
    torch.manual_seed(0)
    logits, targets = torch.randn(32, 1), torch.randint(0, 2, (32,))
    aim = F.one_hot(targets, 2).float() * 0.8 + 0.1 if soft else targets
    options = {"label_smoothing": smoothing, "class_weights": weights}
    one = ClassificationLoss([30, 10], **options)(logits, aim)
    two = ClassificationLoss([30, 10], function="cross_entropy", **options)(class_logits(logits), aim)
    torch.testing.assert_close(one, two)


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    labels = [0] * 10 + [1] * 30 + [2] * 60
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    loss = ClassificationLoss([10, 30, 60], class_weights="balanced")
    torch.testing.assert_close(loss.weight, torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize(
    ("counts", "function"), [([6, 0], "auto"), ([0, 6], "cross_entropy"), ([10, 0, 30, 60, 0], "auto")]
)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("soft", [False, True])
def test_a_class_without_training_images_has_no_weight(
    counts: list[int], function: str, smoothing: float, soft: bool
) -> None:
    loss = ClassificationLoss(counts, function=function, class_weights="balanced", label_smoothing=smoothing)
    assert [value > 0 for value in loss.weight] == [count > 0 for count in counts]
    assert float(loss.weight @ torch.tensor(counts, dtype=torch.float32)) == pytest.approx(sum(counts))
    targets = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    logits = torch.zeros(len(targets), loss.num_logits, requires_grad=True)
    loss(logits, F.one_hot(targets, len(counts)).float() if soft else targets).backward()
    assert logits.grad.isfinite().all()


def test_softmax_of_class_logits_is_the_sigmoid() -> None:
    logit = torch.tensor([[0.3], [-2.0]])
    torch.testing.assert_close(class_logits(logit).softmax(1)[:, 1:], logit.sigmoid())


@pytest.mark.parametrize(
    ("counts", "function"), [([90, 10], "auto"), ([90, 10], "cross_entropy"), ([5, 30, 65], "auto")]
)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("soft", [False, True])
def test_the_mean_over_parts_of_a_batch_is_that_of_the_batch(
    counts: list[int], function: str, smoothing: float, soft: bool
) -> None:
    """So accumulated batches and several processes have the gradient of one batch, whatever classes each part has."""
    torch.manual_seed(0)
    loss = ClassificationLoss(counts, function=function, label_smoothing=smoothing, class_weights="balanced")
    targets = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    aim = F.one_hot(targets, len(counts)) * 0.8 + 0.2 / len(counts) if soft else targets
    logits = torch.randn(100, loss.num_logits, requires_grad=True)
    parts = [
        loss(piece, goal) * len(piece) / 100
        for piece, goal in zip(logits.split([50, 37, 12, 1]), aim.split([50, 37, 12, 1]), strict=True)
    ]
    whole = loss(logits, aim)
    torch.testing.assert_close(sum(parts), whole)
    gradients = [torch.autograd.grad(value, logits)[0] for value in (sum(parts), whole)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("counts", [[90, 10], [5, 30, 65]])
def test_soft_targets_of_one_class_are_hard_targets(counts: list[int]) -> None:
    torch.manual_seed(0)
    loss = ClassificationLoss(counts, class_weights="balanced", label_smoothing=0.1)
    targets = torch.arange(8) % len(counts)
    logits = torch.randn(8, loss.num_logits)
    torch.testing.assert_close(loss(logits, targets), loss(logits, F.one_hot(targets, len(counts)).float()))


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("weights", ["none", "balanced"])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(("counts", "function"), [([9, 1], "auto"), ([9, 1], "cross_entropy"), ([5, 3, 2], "auto")])
def test_the_loss_of_a_converted_network_is_exact(
    precision: torch.dtype, weights: str, soft: bool, counts: list[int], function: str
) -> None:
    """Half precision is computed in single precision, with exact weights; double precision stays."""
    torch.manual_seed(0)
    loss = ClassificationLoss(counts, function=function, class_weights=weights, label_smoothing=0.1)
    logits, targets = torch.randn(8, loss.num_logits).to(precision), torch.arange(8) % len(counts)
    aim = F.one_hot(targets, len(counts)).float() * 0.8 + 0.1 if soft else targets
    expected = loss(logits.float(), aim)
    found = loss.to(precision)(logits, aim)
    assert found.dtype == (torch.float64 if precision == torch.float64 else torch.float32)
    torch.testing.assert_close(found.float(), expected, rtol=1e-6 if precision == torch.float64 else 0, atol=0)
