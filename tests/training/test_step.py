"""A training step does no unnecessary work."""

import warnings
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import Logger
from torch import nn
from torch.utils.data import DataLoader

from opsin.data.loader.batch_loader import Batch
from opsin.data.loader.samplers import Shards, training_batches
from opsin.errors import UserError
from opsin.models.network import Network, sequential
from opsin.training.callbacks import StepCurves, Throughput
from opsin.training.distillation import Distillation, DistillationWeights
from opsin.training.hardware import prevent_cuda_search
from opsin.training.lightning_patches import STEP_HOOKS, NoProfiler, drop_empty_hooks
from opsin.training.lightning_trainer import make_trainer
from opsin.training.loss import ClassificationLoss
from opsin.training.module import Classifier
from opsin.training.trainer import TrainerOptions


def classifier():
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 3))
    return Classifier(network, ClassificationLoss([5, 5, 5]), num_images={}, optimizer=None, schedule=None)


def batch(key):
    return Batch(torch.ones(8, 1, 2, 2), torch.zeros(8, dtype=torch.long), torch.arange(8), key)


def test_the_batch_key_seeds_dropout_like_manual_seed():
    module = classifier()
    drawn = []
    for key in (3, 2**62, 3):
        module.on_train_batch_start(batch(key), 0)
        drawn.append(torch.rand(4))
        torch.manual_seed(key)
        assert torch.equal(torch.rand(4), drawn[-1])
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])


@pytest.mark.skipif(torch.cuda.is_available(), reason="calls wait for CUDA only where it is not in use")
def test_seeding_queues_no_call_for_an_unused_gpu():
    module, before = classifier(), len(torch.cuda._queued_calls)
    for key in range(5):
        module.on_train_batch_start(batch(key), 0)
    assert len(torch.cuda._queued_calls) == before


@pytest.mark.parametrize(
    ("layers", "side", "message"),
    [
        ((nn.Flatten(), nn.BatchNorm1d(4)), 2, r"single value per channel.* set datamodule\.batch_size=4 or more"),
        ((nn.MaxPool2d(2), nn.BatchNorm2d(1)), 3, "single value per channel"),
        ((nn.Flatten(),), 3, "shapes cannot be multiplied"),  # another error is not changed
    ],
)
def test_one_value_per_channel_is_refused_with_the_smallest_batch(layers, side, message):
    loss = ClassificationLoss([5, 5, 5])
    head = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, loss.num_logits))
    module = Classifier(Network("line", {}, head), loss, num_images={}, optimizer=None, schedule=None)
    module._trainer = SimpleNamespace(world_size=2)
    single = Batch(torch.ones(1, 1, side, side), torch.zeros(1, dtype=torch.long), torch.arange(1), 0)
    with pytest.raises(UserError if "value" in message else RuntimeError, match=message):
        module.training_step(single, 0)


def graded(module: Classifier, sizes: list[int], targets: torch.Tensor) -> torch.Tensor:
    """Return the gradient of one step over batches of some sizes, as Lightning accumulates it."""
    module.zero_grad()
    number = len(sizes)
    module._trainer = SimpleNamespace(accumulate_grad_batches=number, num_training_batches=number, world_size=1)
    module._record = {"batch_size": sizes[0]}
    images = torch.arange(len(targets) * 4.0).sin().reshape(-1, 1, 2, 2)
    places = torch.arange(len(targets))
    for i, rows in enumerate(places.split(sizes)):
        loss = module.training_step(Batch(images[rows], targets[rows], rows, 0), i) / len(sizes)
        loss.backward()
    return torch.cat([p.grad.flatten() for p in module.parameters()])


@pytest.mark.parametrize("weights", ["none", "balanced"])
@pytest.mark.parametrize("counts", [[8, 2], [1, 6, 3]])
def test_accumulated_batches_have_the_gradient_of_one(weights: str, counts: list[int]) -> None:
    loss = ClassificationLoss(counts, class_weights=weights)
    network = Network("line", {}, sequential(flatten=nn.Flatten(), fc=nn.Linear(4, loss.num_logits)))
    module = Classifier(network, loss, num_images={"train": 10}, optimizer=None, schedule=None)
    targets = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    whole = graded(module, [10], targets).clone()
    torch.testing.assert_close(graded(module, [4, 4, 2], targets), whole)


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize(
    ("images", "size", "processes"), [(23, 8, 2), (22, 8, 2), (47, 16, 4), (63, 24, 8), (23, 8, 1)]
)
def test_the_share_of_a_batch_counts_the_images_of_all_processes(images, size, processes, window) -> None:
    targets = np.zeros(images, np.int64)
    shards = None if window is None else Shards(np.arange(images) // 5, window)
    options = {"batch_size": size, "batches": 3, "shards": shards, "world_size": processes}
    epochs = [training_batches(targets, "shuffle", 0, 0, rank=rank, **options) for rank in range(processes)]
    taken = [sum(map(len, batches)) for batches in zip(*epochs, strict=True)]
    module = classifier()
    module._num_train, module._record = images, {"batch_size": size}
    module._trainer = SimpleNamespace(accumulate_grad_batches=3, num_training_batches=3, world_size=processes)
    for index, count in enumerate(taken):
        assert module._share(index, 3) == pytest.approx(count / sum(taken))


@pytest.mark.parametrize(("teacher", "same"), [(False, True), (True, False)])
def test_the_classes_weigh_in_the_loss_on_labels_only(teacher: bool, same: bool) -> None:
    """With a teacher, val/loss is the minimized sum, a mean over images; test/loss is always the loss on labels."""
    loss = ClassificationLoss([8, 2], class_weights="balanced")
    given = Distillation(DistillationWeights(), 4, torch.zeros(3)) if teacher else None
    module = Classifier(nn.Identity(), loss, num_images={}, optimizer=None, schedule=None, distillation=given)
    logits, targets = torch.tensor([[1.0], [2.0]]), torch.tensor([1, 1])
    found = {}
    for split in ("val", "test"):
        module._measure(split).update(logits, targets, loss(logits, targets))
        found[split] = module._measure(split).compute()[0]["loss"]
    assert found["test"] == pytest.approx(float(torch.nn.functional.softplus(-logits).mean()))
    assert (found["val"] == found["test"]) is same


class Points(Logger):
    name, version = "points", 0

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, float]] = []

    def log_metrics(self, metrics, step=None):
        if "train/loss_step" in metrics:
            self.found.append((step, round(metrics["train/loss_step"], 3)))

    def log_hyperparams(self, *args, **kwargs):
        pass


@pytest.mark.parametrize(
    ("accumulated", "every", "expected"),
    [
        (1, 1, [(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0), (5, 0.0), (6, 1.0), (7, 2.0), (8, 3.0), (9, 4.0)]),
        (2, 1, [(0, 1.0), (1, 3.0), (2, 4.0), (3, 1.0), (4, 3.0), (5, 4.0)]),
        (2, 2, [(1, 3.0), (3, 1.0), (5, 4.0)]),
        (3, 1, [(0, 2.0), (1, 4.0), (2, 2.0), (3, 4.0)]),
        (5, 1, [(0, 4.0), (1, 4.0)]),
    ],
)
def test_the_loss_curve_has_one_point_per_step(accumulated, every, expected, tmp_path):
    class Module(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def training_step(self, batch, batch_idx):
            return (batch + self.weight).mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

        def train_dataloader(self):
            return DataLoader(torch.arange(5.0))

    points = Points()
    options = TrainerOptions(
        accelerator="cpu", max_epochs=2, accumulate_grad_batches=accumulated, log_every_n_steps=every
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make_trainer(options, callbacks=[StepCurves()], loggers=[points], folder=tmp_path).fit(Module())
    assert points.found == expected


def test_lightning_can_read_the_name_of_the_current_hook():
    module = classifier()
    module._current_fx_name = "training_step"
    assert module._current_fx_name == "training_step"
    module.weight = nn.Parameter(torch.ones(1))  # other attributes are set as usual
    assert "weight" in dict(module.named_parameters())


def test_only_empty_hooks_are_dropped():
    class Mine(Callback):
        def on_after_backward(self, trainer, pl_module):
            pass

    mine, throughput = Mine(), Throughput()
    drop_empty_hooks([mine, throughput])
    assert [name for name in STEP_HOOKS if getattr(mine, name) is not None] == ["on_after_backward"]
    assert callable(throughput.on_train_batch_end)
    assert throughput.on_before_backward is None
    assert callable(mine.on_train_epoch_end)  # only the hooks of a step
    module = classifier()
    drop_empty_hooks([module])
    assert [name for name in STEP_HOOKS if getattr(module, name) is not None] == ["on_train_batch_start"]


def test_training_is_unchanged_without_empty_hooks_and_profiler(tmp_path):
    seen = []

    class Mine(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.append(batch_idx)

    class Module(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 1)

        def training_step(self, batch, batch_idx):
            return self.layer(batch).mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

        def train_dataloader(self):
            return DataLoader(torch.ones(3, 2))

    trainer = make_trainer(
        TrainerOptions(accelerator="cpu", max_epochs=1), callbacks=[Mine(), Throughput()], loggers=[], folder=tmp_path
    )
    assert isinstance(trainer.profiler, NoProfiler)
    trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, Throughput)]  # it requires batches of Opsin
    module = Module()
    before = module.layer.weight.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module)
    assert seen == [0, 1, 2]
    assert not torch.equal(module.layer.weight, before)


def test_the_search_for_cuda_devices_is_disabled_without_a_gpu(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    import os

    for there in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        prevent_cuda_search()
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == (None if there else "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    prevent_cuda_search()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
