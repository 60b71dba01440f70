"""A training step does no unnecessary work."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.utils.data import DataLoader

from opsin.data.loader.batch_loader import Batch
from opsin.training.callbacks import Throughput
from opsin.training.hardware import prevent_cuda_search
from opsin.training.lightning_patches import STEP_HOOKS, NoProfiler, drop_empty_hooks
from opsin.training.loss import ClassificationLoss
from opsin.training.module import Classifier
from opsin.training.trainer import TrainerOptions, make_trainer


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


def test_lightning_can_read_the_name_of_the_current_hook():
    module = classifier()
    module._current_fx_name = "training_step"
    assert module._current_fx_name == "training_step"
    module.weight = nn.Parameter(torch.ones(1))  # other attributes are set as usual
    assert "weight" in dict(module.named_parameters())


def test_only_empty_hooks_are_dropped(tmp_path):
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
    import warnings

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
