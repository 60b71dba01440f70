import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import nn

from opsin.models.network import class_logits
from opsin.runs.per_class import class_scores
from opsin.training import metrics
from opsin.training.loss import ClassificationLoss
from opsin.training.metrics import SplitMetrics, undefined_metrics


def feed(measure: SplitMetrics, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    for logits, targets in batches:
        measure.update(logits, targets, torch.nn.functional.cross_entropy(logits, targets))


def cut(counts: list[int], size: int, logits: torch.Tensor, loss: ClassificationLoss) -> SplitMetrics:
    """Return the metrics of images in the order of their classes, measured in batches of a size."""
    targets = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    measure = SplitMetrics(len(counts), len(targets), loss.weight)
    for piece, goal in zip(logits.split(size), targets.split(size), strict=True):
        measure.update(piece, goal, loss(piece, goal))
    return measure


def batches(seed: int = 0, classes: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for size in (20, 20, 7):
        targets = torch.randint(0, classes, (size,), generator=generator)
        logits = torch.randn(size, classes, generator=generator) + 1.5 * torch.eye(classes)[targets]
        found.append((logits, targets))
    return found


def test_values_are_those_of_scikit_learn() -> None:
    data = batches()
    measure = SplitMetrics(4, 47)
    feed(measure, data)
    scalars, confusion = measure.compute()
    logits, targets = torch.cat([b[0] for b in data]), torch.cat([b[1] for b in data])
    scores, guesses = logits.softmax(1).numpy(), logits.argmax(1).numpy()
    assert scalars["acc"] == pytest.approx(sk.accuracy_score(targets, guesses))
    assert scalars["f1_macro"] == pytest.approx(sk.f1_score(targets, guesses, average="macro"))
    expected = sk.roc_auc_score(targets, scores, multi_class="ovr", average="macro")
    assert scalars["auroc"] == pytest.approx(expected, abs=1e-6)
    assert scalars["loss"] == pytest.approx(sk.log_loss(targets, scores), abs=1e-5)
    np.testing.assert_array_equal(confusion.numpy(), sk.confusion_matrix(targets, guesses))
    rows = class_scores(confusion.numpy(), "abcd")
    report = sk.classification_report(targets, guesses, target_names=list("abcd"), output_dict=True)
    for row in rows:
        for name in ("precision", "recall"):
            assert getattr(row, name) == pytest.approx(report[row.name][name])
        assert row.f1 == pytest.approx(report[row.name]["f1-score"])


def test_calibration_error_of_a_sure_and_always_wrong_network_is_one() -> None:
    measure = SplitMetrics(2, 10)
    targets = torch.zeros(10, dtype=torch.long)
    measure.update(torch.tensor([[-30.0, 30.0]]).repeat(10, 1), targets, torch.tensor(60.0))
    assert measure.compute()[0]["ece"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("classes", "scale", "shift"), [(1, 1, 0), (1, 10, 0), (1, 5, 60), (1, 5, -60), (3, 30, 0), (10, 20, 5)]
)
def test_area_under_the_curve_of_a_network_that_is_too_sure(classes: int, scale: float, shift: float) -> None:
    """Probabilities that float32 rounds to 1 are ranked too."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(0, max(2, classes), (500,), generator=generator)
    signal = targets[:, None].float() if classes == 1 else torch.eye(classes)[targets]
    logits = (torch.randn(500, classes, generator=generator) + signal) * scale
    logits[:, -1] += shift
    measure = SplitMetrics(max(2, classes), 500)
    measure.update(logits, targets, torch.tensor(0.0))
    wide = logits.double()
    if classes == 1:
        expected = sk.roc_auc_score(targets, wide[:, 0])
    else:
        others = [torch.cat([wide[:, :c], wide[:, c + 1 :]], 1).logsumexp(1) for c in range(classes)]
        expected = np.mean([sk.roc_auc_score(targets == c, wide[:, c] - others[c]) for c in range(classes)])
    assert measure.compute()[0]["auroc"] == pytest.approx(expected, abs=2e-5)


def test_one_logit_counts_as_two_classes() -> None:
    measure = SplitMetrics(2, 4)
    measure.update(torch.tensor([[2.0], [-1.0], [3.0], [1.0]]), torch.tensor([1, 0, 1, 0]), torch.tensor(0.1))
    scalars, confusion = measure.compute()
    assert scalars["acc"] == 0.75
    assert confusion.tolist() == [[1, 1], [0, 2]]


def test_soft_targets_count_as_their_largest_class() -> None:
    measure = SplitMetrics(3, 2)
    soft = torch.tensor([[0.7, 0.3, 0.0], [0.1, 0.2, 0.7]])
    measure.update(torch.eye(3)[[0, 1]], soft, torch.tensor(1.0))
    assert measure.compute()[0]["acc"] == 0.5


def test_without_images_there_are_no_metrics_and_no_warning() -> None:
    scalars, confusion = SplitMetrics(3, 0).compute()
    assert scalars == {}
    assert confusion.sum() == 0


def test_early_flushing_does_not_change_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    late, early = SplitMetrics(4, 47), SplitMetrics(4, 47)
    feed(late, batches())
    monkeypatch.setattr(metrics, "FLUSH_AFTER", 1)
    feed(early, batches())
    expected, found = late.compute()[0], early.compute()[0]
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("flush", [1, 30, 8192])
def test_metrics_continued_from_saved_progress_are_exact(flush: int, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(metrics, "FLUSH_AFTER", flush)
    whole, first, second = SplitMetrics(4, 47), SplitMetrics(4, 47), SplitMetrics(4, 47)
    data = batches()
    feed(whole, data)
    feed(first, data[:2])
    torch.save(first.progress(), tmp_path / "progress.pt")
    second.restore(torch.load(tmp_path / "progress.pt", weights_only=True), torch.device("cpu"))
    feed(second, data[2:])
    assert second.compute()[0] == whole.compute()[0]


def test_auroc_of_very_many_scores_takes_constant_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "EXACT_AUROC_VALUES", 10)
    binned = SplitMetrics(4, 47)
    feed(binned, batches())
    exact = SplitMetrics(4, 2)
    feed(exact, batches())
    assert binned.compute()[0]["auroc"] == pytest.approx(exact.compute()[0]["auroc"], abs=0.02)


@pytest.mark.parametrize("logits", [[[-torch.inf, 2, 1]], [[3, -torch.inf, -torch.inf]], [[-torch.inf], [40.0]]])
def test_a_logit_of_minus_infinity_has_the_rank_zero(logits: list[list[float]]) -> None:
    scores = class_logits(torch.tensor(logits))
    found = metrics.ranks(scores)
    assert found.isfinite().all()
    assert (found[scores.softmax(1) == 0] == 0).all()
    assert metrics.ranks(torch.tensor([[torch.nan, 1.0]])).isnan().all()  # a diverged network has no rank


def test_the_auroc_of_networks_that_exclude_classes_is_that_of_scikit_learn() -> None:
    (logits, targets), *_ = batches()
    logits[::2, 1] = -torch.inf
    measure = SplitMetrics(4, len(targets))
    measure.update(logits, targets, torch.tensor(0.0))
    expected = sk.roc_auc_score(targets, logits.softmax(1), multi_class="ovr")
    assert measure.compute()[0]["auroc"] == pytest.approx(expected, abs=1e-6)


def test_the_auroc_of_images_of_one_class_is_undefined() -> None:
    measure = SplitMetrics(3, 4)
    feed(measure, [(torch.eye(3)[[0, 1, 2, 2]], torch.full((4,), 2))])
    scalars, _ = measure.compute()
    assert undefined_metrics([f"test/{name}" for name in scalars]) == ("test/auroc",)
    assert undefined_metrics(["train/acc", "val/acc", "val/auroc"]) == ()


@pytest.mark.parametrize(
    ("counts", "function"), [([90, 10], "auto"), ([90, 10], "cross_entropy"), ([5, 30, 65], "auto")]
)
@pytest.mark.parametrize("weights", ["none", "balanced"])
def test_the_loss_of_a_split_does_not_depend_on_its_batches(counts: list[int], function: str, weights: str) -> None:
    """Images of a folder are read class by class, so a batch may have images of one class only."""
    trained_on = counts[::-1]  # val may have other shares of the classes than train
    loss = ClassificationLoss(trained_on, function=function, class_weights=weights)
    logits = torch.randn(100, loss.num_logits, generator=torch.Generator().manual_seed(0))
    labels = np.repeat(np.arange(len(counts)), counts)
    each = 100 / (len(counts) * np.array(trained_on)) if weights == "balanced" else np.ones(len(counts))
    scores = class_logits(logits).double().softmax(1).numpy()
    expected = sk.log_loss(labels, scores, sample_weight=each[labels])
    for size in (100, 50, 10, 7, 1):
        assert cut(counts, size, logits, loss).compute()[0]["loss"] == pytest.approx(expected, rel=1e-5), size


def test_a_class_without_images_does_not_change_the_weighted_loss() -> None:
    logits = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    loss = ClassificationLoss([6, 4, 0], class_weights="balanced")
    assert np.isfinite(cut([6, 4, 0], 5, logits, loss).compute()[0]["loss"])


def test_images_of_a_class_without_training_images_do_not_count_in_the_weighted_loss() -> None:
    logits = torch.randn(13, 3, generator=torch.Generator().manual_seed(0))
    loss = ClassificationLoss([6, 4, 0], class_weights="balanced")
    known = cut([6, 4, 0], 5, logits[:10], loss).compute()[0]["loss"]
    assert cut([6, 4, 3], 5, logits, loss).compute()[0]["loss"] == pytest.approx(known)


def test_the_weighted_loss_of_processes_is_that_of_all_images() -> None:
    """Process 0 has the images of one class, process 1 the others: only sums may be reduced, not means."""
    loss = ClassificationLoss([90, 10], class_weights="balanced")
    logits = torch.randn(100, 1, generator=torch.Generator().manual_seed(0))
    whole = cut([90, 10], 100, logits, loss).compute()[0]["loss"]
    first, second = cut([90, 0], 30, logits[:90], loss), cut([0, 10], 30, logits[90:], loss)
    first._flush()
    second._flush()
    for (_, metric), (_, other) in zip(first._metrics(), second._metrics(), strict=True):
        metric.merge_state(other)
    assert first.compute()[0]["loss"] == pytest.approx(whole)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_a_network_in_half_precision_has_exact_sums(precision: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "FLUSH_AFTER", 1)
    plain, holder = SplitMetrics(4, 47), nn.Module()
    holder.measure = converted = SplitMetrics(4, 47)
    for convert in (lambda: holder.to(precision), holder.half, holder.bfloat16):
        convert()
        for measure in (plain, converted):
            feed(measure, batches())
        (expected, matrix), (found, confusion) = plain.compute(), converted.compute()
        assert found == expected
        assert torch.equal(confusion, matrix)


def test_metrics_move_with_the_device_of_the_module() -> None:
    measure = SplitMetrics(4, 47).to("meta", torch.bfloat16)
    assert measure._loss.sum_value.device.type == measure._loss.device.type == "meta"
    assert measure._loss.sum_value.dtype == torch.float32
