"""The distillation loss, by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from opsin.training.distillation import Distillation, DistillationWeights


def identity(weights: DistillationWeights, center: torch.Tensor) -> Distillation:
    """A distillation whose projector hands embeddings on as they are."""
    loss = Distillation(weights, len(center), center)
    with torch.no_grad():
        loss.projector.weight.copy_(torch.eye(len(center)))
        loss.projector.bias.zero_()
    return loss


def test_the_embedding_term_is_one_minus_the_cosine_to_the_centered_teacher() -> None:
    loss = identity(DistillationWeights(embedding=2.0, labels=0.0), torch.tensor([1.0, 1.0]))
    students = torch.tensor([[3.0, 0.0], [0.0, 5.0], [1.0, 1.0]])
    teachers = torch.tensor([[2.0, 1.0], [2.0, 1.0], [0.0, 0.0]])  # centered: (1, 0), (1, 0), (-1, -1)
    logits, labels = torch.zeros(3, 2), torch.tensor(9.0)
    found = loss(students, logits, teachers, labels)
    assert found.item() == pytest.approx(2.0 * ((1 - 1) + (1 - 0) + (1 + 1)) / 3, abs=1e-6)


def test_the_loss_is_the_weighted_sum_of_the_terms() -> None:
    loss = identity(DistillationWeights(embedding=0.5, labels=3.0), torch.zeros(2))
    found = loss(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2), torch.tensor([[0.0, 4.0]]), torch.tensor(0.25))
    assert found.item() == pytest.approx(0.5 * 1 + 3.0 * 0.25, abs=1e-6)


def divergence(wanted: list[float], given: list[float], temperature: float) -> float:
    def softmax(logits: list[float]) -> list[float]:
        powers = [math.exp(z / temperature) for z in logits]
        return [power / sum(powers) for power in powers]

    p, q = softmax(wanted), softmax(given)
    return temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def test_the_logits_term_is_the_divergence_times_the_square_of_the_temperature() -> None:
    weights = DistillationWeights(embedding=0.0, logits=0.7, labels=0.0, temperature=3.0)
    wanted, given = [[1.0, 2.0, -1.0], [0.0, 0.0, 4.0]], [[0.5, 0.0, 0.0], [3.0, 1.0, 1.0]]
    taught = torch.cat([torch.ones(2, 2), torch.tensor(wanted)], dim=1)
    found = identity(weights, torch.zeros(2))(torch.ones(2, 2), torch.tensor(given), taught, torch.tensor(1.0))
    mean = sum(divergence(p, q, 3.0) for p, q in zip(wanted, given, strict=True)) / 2
    assert found.item() == pytest.approx(0.7 * mean, rel=1e-5)


def test_one_logit_equals_two_classes_of_which_one_has_logit_zero() -> None:
    weights = DistillationWeights(embedding=0.0, logits=1.0, labels=0.0, temperature=2.0)
    taught = torch.tensor([[1.0, 1.0, 3.0]])  # the last is the teacher's logit
    found = identity(weights, torch.zeros(2))(torch.ones(1, 2), torch.tensor([[-1.0]]), taught, torch.tensor(0.0))
    assert found.item() == pytest.approx(divergence([0.0, 3.0], [0.0, -1.0], 2.0), rel=1e-5)


def test_half_precision_changes_the_loss_by_at_most_two_percent() -> None:
    torch.manual_seed(0)
    loss = Distillation(DistillationWeights(logits=1.0), 8, torch.randn(6))
    students, logits, taught = torch.randn(4, 8), torch.randn(4, 3), torch.randn(4, 9)
    exact = loss(students, logits, taught, torch.tensor(0.5))
    with torch.autocast("cpu", torch.bfloat16):
        half = loss(students, logits.bfloat16(), taught.half(), torch.tensor(0.5))
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(exact.item(), rel=0.02)


def test_gradients_reach_the_projector_and_the_student_and_not_the_teacher() -> None:
    torch.manual_seed(0)
    backbone, head = nn.Linear(5, 8), nn.Linear(8, 3)
    loss = Distillation(DistillationWeights(logits=1.0, labels=0.0), 8, torch.zeros(6))
    embeddings = backbone(torch.randn(4, 5))
    loss(embeddings, head(embeddings), torch.randn(4, 9), torch.tensor(0.0)).backward()
    for parameter in (*backbone.parameters(), *head.parameters(), *loss.projector.parameters()):
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0
    assert not loss.center.requires_grad
    assert [name for name, _ in loss.named_parameters()] == ["projector.weight", "projector.bias"]


def test_the_description_states_the_meaning_of_each_loss() -> None:
    assert str(DistillationWeights(labels=0.5)) == (
        "train/loss and val/loss are 1 x embedding + 0.5 x labels, test/loss is the loss on the labels"
    )
    assert str(DistillationWeights(labels=0)).endswith("the head does not train, so accuracies are meaningless")
    assert DistillationWeights(labels=0, logits=1).trains_head


def in_double(loss: Distillation, students: torch.Tensor, logits: torch.Tensor, taught: torch.Tensor) -> torch.Tensor:
    """Return the loss with labels of loss 0.5, by double precision in each operation."""
    projected = F.linear(students.double(), loss.projector.weight.double(), loss.projector.bias.double())
    cosine = F.cosine_similarity(projected, taught[:, :6].double() - loss.center.double())
    wanted, found = (values.double().div(4).log_softmax(1) for values in (taught[:, 6:], logits))
    return (1 - cosine).mean() + 0.5 + 16 * (wanted.exp() * (wanted - found)).sum(1).mean()


@pytest.mark.parametrize(
    ("weights", "center"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_the_loss_is_computed_in_the_precision_of_the_center(weights: torch.dtype, center: torch.dtype) -> None:
    torch.manual_seed(0)
    mean = torch.randn(6)
    loss = Distillation(DistillationWeights(logits=1.0), 8, mean)
    students, logits, taught = torch.randn(4, 8), torch.randn(4, 3), torch.randn(4, 9)
    exact = in_double(loss, students, logits, taught)
    module = nn.ModuleDict({"distillation": loss}).to(weights)
    assert torch.equal(loss.center, mean.to(center))
    assert loss.projector.weight.dtype == weights
    found = loss(students.to(weights), logits.to(weights), taught, torch.tensor(0.5))
    assert found.dtype == center
    tolerance = {torch.bfloat16: 0.02, torch.float32: 1e-6, torch.float64: 1e-12}[weights]
    assert found.item() == pytest.approx(exact.item(), rel=tolerance, abs=0)
    assert list(module.state_dict()) == [
        f"distillation.{key}" for key in ("center", "projector.weight", "projector.bias")
    ]
